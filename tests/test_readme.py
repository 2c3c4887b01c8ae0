"""What the README tells a reader to type runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
OWN = README.split("## Add your own")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", OWN, re.S)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: re.findall(r'register\("([\w ]+)"', code)[0])
def test_a_block_of_your_own_runs(code, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "shelf").mkdir()
    loans = pd.DataFrame({"user": rng.integers(0, 9, 90), "item": rng.integers(0, 20, 90), "timestamp": range(90)})
    loans.drop_duplicates(["user", "item"]).to_csv(tmp_path / "shelf" / "loans.csv", index=False)
    titles = [f"book {n} of the moon" for n in range(20)]
    pd.DataFrame({"item": range(20), "title": titles}).to_csv(tmp_path / "shelf" / "books.csv", index=False)
    short = code.replace("rounds=20", "rounds=2").replace("range(3)", "range(2)")
    environment = {**os.environ, "FEDLAB_MM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", short]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    if "savefig" in code:
        assert (tmp_path / "operators.png").stat().st_size > 10_000


def test_there_is_one_block_for_each_family():
    assert re.findall(r'register\("([\w ]+)"', OWN) == [
        "operator",
        "backbone",
        "click backbone",
        "dataset",
        "aggregation",
    ]
    assert all(len(code.split("\n\n\n@register")[-1].splitlines()) <= 16 for code in BLOCKS)


def test_the_annotated_tree_names_every_module_and_notebook():
    root = Path(__file__).resolve().parents[1]
    tree = README.split("## What is where")[1].split("```")[1]
    for path in (root / "notebooks").glob("*.ipynb"):
        assert path.name in tree, path.name
    for path in (root / "fedlab_mm").iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in tree, path.name
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in tree, path.name
