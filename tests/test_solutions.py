"""The solutions of the notebooks' exercises: each is code, and runs after its notebook's own cells."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def solutions(path):
    """The blocks of code under a notebook's "Solutions"."""
    told = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    below = [text.split("<summary>Solutions</summary>")[1] for text in told if "<summary>Solutions</summary>" in text]
    return [block for text in below for block in re.findall(r"```python\n(.*?)```", text, re.S)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_solutions_are_there_and_are_python(path):
    assert solutions(path)
    for code in solutions(path):
        compile(code, path.stem, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_solutions_run(path, request):
    if not request.config.getoption("--solutions"):
        pytest.skip("an hour for all: --solutions, as every night")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions(path)]
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(path.parent)}}).execute()
