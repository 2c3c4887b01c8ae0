"""`python -m benchmarks`: what a round and an evaluation cost, and how much faster stacked is than loop.

Four parts, each cell of the first three in a process of its own:

    ku       every method around every backbone; both engines take turns, on all clients
    shapes   generated sets of the papers' shapes, and 100,000 clients; both engines take turns on some 200 clients, and
             stacked trains full rounds
    growth   seconds a round of FedVLR on FCF against clients, items and interactions, with fitted exponents
    busy     what a round costs beside other processes that compute (busy.py)

The machine may be noisy, so absolute times mean little; ratios are of medians of rounds that took turns, of the same
recipe on the same samples.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from tqdm import tqdm

import fedlab_mm as fl
from benchmarks import busy
from benchmarks.shapes import PAPERS
from fedlab_mm.files import put
from fedlab_mm.registry import names
from fedlab_mm.version import versions

SOME = [
    ("fcf", "none"),
    ("fcf", "fedvlr"),
    ("fcf", "gfmfr"),
    ("fcf", "fedmr"),
    ("fedncf", "fedvlr"),
    ("pfedrec", "fedvlr"),
]
SOME += [("fedrap", "none"), ("fedrap", "fedvlr")]
CLOSED = {"solver": "closed", "server_optimizer": "adam", "shared_lr": 0.01}
SOLVED = [("fcf", "none"), ("fcf", "mlp"), ("fcf", "prior"), ("fcf", "fedvlr")]
PARTS = ["ku", "shapes", "growth", "busy"]
MANY = (100_000, 10_000, 700_000)
GROWTH = {
    "clients": [(n, 10_000, 7 * n) for n in (1_000, 3_000, 10_000, 30_000, 100_000)],
    "items": [(10_000, n, 70_000) for n in (1_000, 3_000, 10_000, 30_000)],
    "interactions": [(5_000, 5_000, n) for n in (35_000, 100_000, 300_000, 900_000)],
}


def cells(options: argparse.Namespace, ku: str) -> list[dict[str, Any]]:
    def cell(dataset: Any, backbone: str, method: str, loop: bool, **more: Any) -> dict[str, Any]:
        recipe = {"backbone": backbone, "method": method, **more}
        return {"dataset": dataset, "recipe": recipe, "root": options.root, "turns": options.turns, "loop": loop}

    found: list[dict[str, Any]] = []
    every = [(b, m) for b in options.backbone for m in options.method]
    if "ku" in options.part:
        found += [{"part": "ku", **cell(ku, b, m, loop=True)} for b, m in every]
        if ("fcf", "fedmr") in every:
            found += [{"part": "ku", **cell(ku, "fcf", "fedmr", loop=True, local_epochs=10)}]
        found += [{"part": "ku", **cell(ku, *c, loop=True, **CLOSED)} for c in SOLVED if c in every]
    if "shapes" in options.part:
        chosen = every if options.every else [c for c in SOME if c in every]
        found += [{"part": "shapes", **cell(s, b, m, loop=True)} for s in PAPERS for b, m in chosen]
        found += [{"part": "shapes", **cell(s, *SOLVED[0], loop=True, **CLOSED)} for s in PAPERS if SOLVED[0] in every]
        found += [{"part": "shapes", **cell(MANY, "fcf", "fedvlr", loop=False)}]
        found += [{"part": "shapes", **cell(MANY, *SOLVED[0], loop=False, **CLOSED)}]
    if "growth" in options.part:
        for axis, shapes in GROWTH.items():
            found += [{"part": axis, **cell(s, "fcf", "fedvlr", loop=False)} for s in shapes]
    return found


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", help="the folder above ku/ (default: $FEDLAB_MM_DATA or the user's cache folder)")
    parser.add_argument("--part", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--backbone", nargs="+", default=names("backbone"))
    parser.add_argument("--method", nargs="+", default=names("method"))
    parser.add_argument("--every", action="store_true", help="every method and backbone on the shapes too: hours")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", default="out/bench", help="folder for bench.json, bench.md, growth.csv and growth.png")
    options = parser.parse_args()
    ku = "ku"
    try:
        fl.load("ku", root=options.root)
    except fl.FedlabError as error:
        print(f"{error}\nmeasuring on the toy set instead")
        ku = "toy"
    rows = []
    bar = tqdm(cells(options, ku), unit="cell")
    for spec in bar:
        part = spec.pop("part")
        bar.set_description(f"{part}: {spec['dataset']} {spec['recipe']['backbone']} + {spec['recipe']['method']}")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.cell", json.dumps(spec)], stdout=subprocess.PIPE, encoding="utf-8"
        )
        if done.returncode:
            raise SystemExit(f"the cell {spec} failed")
        rows.append({"part": part, **json.loads(done.stdout.splitlines()[-1])})
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.processor(), **versions()}
    put(out / "bench.json", json.dumps({"about": about, "rows": rows}, indent=2))
    if rows:
        report(pd.DataFrame(rows), out)
    if "busy" in options.part:
        cells_beside = [cell for cell in SOME if cell[0] in options.backbone and cell[1] in options.method]
        table = busy.table_of(ku, cells_beside, options.root)
        put(out / "busy.md", f"A round beside other processes, milliseconds\n\n{markdown(table)}\n")


def report(table: pd.DataFrame, out: Path) -> None:
    text = []
    for title, part in ((str(table["data"].iloc[0]), "ku"), ("The papers' shapes, and 100,000 clients", "shapes")):
        rows = table[table["part"] == part].dropna(axis=1, how="all")
        if len(rows):
            text.append(f"{title}\n\n{markdown(rows.drop(columns='part'))}\n")
    growth = table[table["part"].isin(GROWTH)]
    if len(growth):
        picture(growth, out / "growth.png")
        growth.to_csv(out / "growth.csv", index=False)
        for axis in GROWTH:
            last = exponent(growth, axis, 2)
            text.append(f"seconds a round grow as {axis}^{exponent(growth, axis):.2f}; the two largest: ^{last:.2f}\n")
    put(out / "bench.md", "\n".join(text))
    print("\n".join(text), f"\nwritten to {out}")


def markdown(table: pd.DataFrame) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "–" if np.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = [list(table), ["---"] * table.shape[1], *([cell(v) for v in row] for row in table.to_numpy(dtype=object))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


COLUMN = {"clients": "users", "items": "items", "interactions": "interactions"}


def exponent(growth: pd.DataFrame, axis: str, largest: int = 0) -> float:
    """The slope of log seconds on log size, over all sizes or the largest so many."""
    rows = growth[growth["part"] == axis].iloc[-largest:]
    return float(np.polyfit(np.log(rows[COLUMN[axis]]), np.log(rows["round, s"]), 1)[0])


def picture(growth: pd.DataFrame, path: Path) -> None:
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    notes = {
        "clients": "10,000 items, 7 interactions each",
        "items": "10,000 clients",
        "interactions": "5,000 clients, 5,000 items",
    }
    for panel, axis in zip(axes, GROWTH, strict=True):
        rows = growth[growth["part"] == axis]
        panel.loglog(rows[COLUMN[axis]], rows["round, s"], "o-")
        line = rows[COLUMN[axis]] / rows[COLUMN[axis]].iloc[-1] * rows["round, s"].iloc[-1]
        panel.loglog(rows[COLUMN[axis]], line, ":", color="grey", label="in proportion")
        panel.set(xlabel=axis, title=f"{notes[axis]}\nexponent {exponent(growth, axis):.2f}")
    axes[0].set_ylabel("seconds a round")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
