"""What a round costs while other processes compute: `python -m benchmarks.busy --root folder` prints a row a recipe.

Columns are median rounds in milliseconds: alone; beside one more run of the same; beside two more; beside two processes
that multiply matrices without end, each with all of torch's threads. On two cores these leave one thread two fifths of
a core, so no choice of threads makes a round there take less than 2.5 times what one thread takes alone. Each process
beside is bounded: it ends by itself, or with the measurement. The conditions are measured one after the other in each
turn, so that a noisy machine does not favour one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch

import fedlab_mm as fl
from fedlab_mm.registry import lookup, names

MOST = 300  # seconds that a process beside lives
MULTIPLIES = """
import sys, time, torch
a, end = torch.randn(256, 256), time.time() + float(sys.argv[1])
while time.time() < end:
    (a @ a).relu().sum()
"""


class Beside:
    """A process that computes until this is left."""

    def __init__(self, *command: str):
        self.command = command

    def __enter__(self) -> None:
        self.process = subprocess.Popen([sys.executable, *self.command], stdout=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def engine_of(recipe: dict[str, Any], root: str | None) -> Any:
    r = fl.Recipe(**recipe)
    data = fl.load(r.dataset, root=root)
    family = "click engine" if isinstance(data, fl.ClickLog) else "engine"
    return lookup(family, r.engine)(r, data)


def median_round(engine: Any, seconds: float) -> float:
    """The median round of so many seconds, three rounds at least, after one that settles."""
    engine.step()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - start < seconds:
        began = time.perf_counter()
        engine.step()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def run_on(recipe: dict[str, Any], root: str | None, seconds: float) -> None:
    """The other run: the same rounds, until its time is over."""
    engine, end = engine_of(recipe, root), time.time() + seconds
    while time.time() < end:
        engine.step()


def measure(recipe: dict[str, Any], root: str | None, turns: int, seconds: float) -> dict[str, Any]:
    engine = engine_of(recipe, root)
    engine.step()
    another = ("-m", "benchmarks.busy", "--beside", json.dumps(recipe), *(("--root", root) if root else ()))
    multiplies = ("-c", MULTIPLIES, str(MOST))
    found: dict[str, list[float]] = {}
    for _ in range(turns):
        for name, others in (
            ("alone", []),
            ("one more run", [another]),
            ("two more runs", [another] * 2),
            ("two that multiply", [multiplies] * 2),
        ):
            with ExitStack() as stack:
                for command in others:
                    stack.enter_context(Beside(*command))
                if others:
                    time.sleep(6)  # until they compute
                found.setdefault(name, []).append(1e3 * median_round(engine, seconds))
    return {name: round(statistics.median(each), 1) for name, each in found.items()}


def table_of(
    dataset: str,
    cells: Iterable[tuple[str, str]],
    root: str | None = None,
    engine: str = "stacked",
    turns: int = 1,
    seconds: float = 4.0,
    csv: str | None = None,
) -> pd.DataFrame:
    """A row for each (backbone, method), printed as it is measured.

    Args:
        seconds: that each median is taken over; csv: a file for the rows, whose own are not measured again.
    """
    rows: list[dict[str, Any]] = []
    if csv and os.path.exists(csv):
        rows = pd.read_csv(csv).to_dict("records")
    known = {(row["backbone"], row["method"]) for row in rows}
    print(f"{dataset}, {engine}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    for backbone, method in cells:
        if (backbone, method) in known:
            continue
        # With rates this small a round costs the same, and many of them do not diverge.
        recipe = {"dataset": dataset, "backbone": backbone, "method": method, "engine": engine}
        recipe |= {"lr": 1e-6, "shared_lr": 1e-6}
        if isinstance(fl.load(dataset, root=root), fl.ClickLog):
            recipe |= {"history": "clicks", "local_epochs": 1}
        times = measure(recipe, root, turns, seconds)
        ratios = {f"× {name}": round(t / times["alone"], 1) for name, t in times.items() if name != "alone"}
        rows.append({"backbone": backbone, "method": method, **times, **ratios})
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
        if csv:
            pd.DataFrame(rows).to_csv(csv, index=False)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.busy", description=__doc__)
    parser.add_argument("--root", help="the folder above ku/")
    parser.add_argument("--dataset", default="ku")
    parser.add_argument("--backbone", nargs="+")
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--engine", default="stacked")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each median is taken over")
    parser.add_argument("--csv", help="file for the table; rows that it has are not measured again")
    parser.add_argument("--beside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.beside:
        return run_on(json.loads(options.beside), options.root, MOST)
    kind = "click " if isinstance(fl.load(options.dataset, root=options.root), fl.ClickLog) else ""
    methods, backbones = options.method or names(f"{kind}method"), options.backbone or names(f"{kind}backbone")
    cells = [(backbone, method) for method in methods for backbone in backbones]
    table_of(options.dataset, cells, options.root, options.engine, options.turns, options.seconds, options.csv)


if __name__ == "__main__":
    main()
