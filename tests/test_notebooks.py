"""Stored notebooks are whole, and what they find is compared: nbval passes over an output only where it says why."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"
REASONS = {
    "ignored:time": "seconds, or a ratio of them",
    "ignored:processor": "digits that hang on how a processor rounds, found by executing as another would",
    "ignored:rounding": "the size of rounding errors, which another processor makes otherwise",
    "ignored:data": "which data are at hand",
    "ignored:grows": "a list that grows with the package",
}


def cells(path):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_was_executed_and_none_failed(path):
    for cell in cells(path):
        assert cell["execution_count"] is not None, "".join(cell["source"])
        assert all(output["output_type"] != "error" for output in cell["outputs"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_result_is_compared_or_says_why_not(path):
    """A progress bar may be passed over; a table or a picture needs a reason."""
    for cell in cells(path):
        tags = set(cell["metadata"].get("tags", []))
        reasons = {tag for tag in tags if tag.startswith("ignored:")}
        assert reasons <= set(REASONS)
        only_bars = all(output.get("name") == "stderr" for output in cell["outputs"])
        if IGNORED in tags:
            assert only_bars or reasons, "".join(cell["source"])
        else:
            assert not reasons


def test_most_results_are_compared():
    outputs = [cell for path in NOTEBOOKS for cell in cells(path) if cell["outputs"]]
    reasons = [c for c in outputs if any(t.startswith("ignored:") for t in c["metadata"].get("tags", []))]
    assert len(outputs) > 200 and len(reasons) <= 17
