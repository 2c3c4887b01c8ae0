"""What the README tells a reader to type runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


NAMES = {"fcf": "FCF", "fedavg": "FedAvg", "fedncf": "FedNCF", "pfedrec": "PFedRec", "fedrap": "FedRAP"}
NAMES |= {"popularity": "popularity", "itemknn": "item-KNN", "ease": "EASE", "ials": "iALS"}


def main_table():
    """The README's main table, from the table that its main picture is drawn from."""
    metrics = ["hr@50", "ndcg@50", "hr@50/warm", "ndcg@50/warm"]
    table = fl.figures.table_of("main-table-ku", ROOT / "figures")
    rows = ["|  | HR@50 | NDCG@50 | HR@50 warm | NDCG@50 warm |", "|---|---|---|---|---|"]
    for (backbone, method), cell in table.groupby(["backbone", "method"], sort=False):
        name = NAMES[backbone] if method in ("none", "centralised") else f"+ {method}"
        sd = cell[metrics].std()
        shown = [f"{cell[m].mean():.3f}" + ("" if len(cell) == 1 else f" ± {sd[m]:.3f}") for m in metrics]
        rows.append(f"| {' | '.join([name, *shown])} |")
    return "\n".join(rows)


def test_the_main_table_is_that_of_the_main_picture():
    assert "(figures/main-table-ku.png)" in README and main_table() in README


SOLVED = {"solved-ku": "KU, warm", "solved-toy": "toy", "solved-ml": "ml-latest-small", "solved-ml-100k": "ML-100K"}
CLIENTS = {"steps": "clients step", "solved": "clients solve"}


def solved_table():
    """The README's table of clients that solve, from the tables that its pictures are drawn from."""
    there = {n: t for n, t in SOLVED.items() if (ROOT / "figures" / f"{n}.csv").is_file()}
    columns: dict[str, dict[str, str]] = {}
    for name, title in there.items():
        table = fl.figures.table_of(name, ROOT / "figures").astype({"control": object}).fillna({"control": ""})
        metric = "ndcg@50/warm" if "warm" in title else "ndcg@50"
        for (row, control), cell in table.groupby(["row", "control"], sort=False):
            client, _, method = row.partition(" + ")
            what = "IDs only" if method == "none" else f"`{method}`"
            told = NAMES.get(row) or f"{CLIENTS[client]}, {what}" + (", shuffled" if control else "")
            sd = "" if len(cell) == 1 else f" ± {cell[metric].std():.3f}"
            columns.setdefault(told, {})[title] = f"{cell[metric].mean():.3f}{sd}"
    order = sorted(columns, key=lambda told: (told not in NAMES.values(), not told.startswith("clients step")))
    rows = [f"| NDCG@50 | {' | '.join(there.values())} |", "|---" * (1 + len(there)) + "|"]
    rows += [f"| {told} | {' | '.join(columns[told].get(title, '') for title in there.values())} |" for told in order]
    return "\n".join(rows)


def test_the_table_of_solved_clients_is_that_of_its_pictures():
    assert "(figures/solved-ku.png)" in README and solved_table() in README


def test_sections_that_other_files_name_are_there():
    headings = set(re.findall(r"^#+ (.+)$", README, re.M))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout.split()
    for name in listed:
        if name.endswith((".md", ".txt", ".toml", ".yml", ".py")) or name == "Makefile":
            text = (ROOT / name).read_text(encoding="utf-8")
            for section in re.findall(r"README(?:\.md)?(?:,| section) '([^']+)'", text):
                assert section in headings, f"{name} names '{section}'"
