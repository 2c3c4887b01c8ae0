"""`python -m benchmarks`: seconds per round and per evaluation of both engines, and their ratio.

The machine may be noisy, so absolute times mean little: loop and stacked take turns in one process, each turn a whole
round with negative sampling and client-side training (and, apart, an evaluation of every client), and the ratio is that
of the medians. Both run the same recipe, so they do the same work on the same samples.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

import fedlab_mm as fl
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.records import versions
from fedlab_mm.registry import lookup, names


def measure(recipe: fl.Recipe, data: fl.Dataset, turns: int) -> dict[str, object]:
    engines = {name: lookup("engine", name)(recipe.but(engine=name), data) for name in ("loop", "stacked")}
    rounds: dict[str, list[float]] = {name: [] for name in engines}
    evaluations: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(turns + 1):  # the first turn warms up and is not counted
        for name, engine in engines.items():
            quick = rounds[name] and statistics.median(rounds[name]) < 0.1
            for _ in range(5 if quick else 1):
                record = engine.step()
                start = time.perf_counter()
                evaluate_split(engine.scores(), data, "valid", recipe.k)
                if turn:
                    rounds[name].append(record.seconds)
                    evaluations[name].append(time.perf_counter() - start)
    loop, stacked = (statistics.median(rounds[name]) for name in ("loop", "stacked"))
    loop_eval, stacked_eval = (statistics.median(evaluations[name]) for name in ("loop", "stacked"))
    return {
        "data": data.name,
        "backbone": recipe.backbone,
        "method": recipe.method,
        "loop, ms a round": round(1e3 * loop, 1),
        "stacked, ms a round": round(1e3 * stacked, 1),
        "times faster": round(loop / stacked, 1),
        "loop, ms an evaluation": round(1e3 * loop_eval, 1),
        "stacked, ms an evaluation": round(1e3 * stacked_eval, 1),
        "kB up a client": round(record.upload_bytes / len(record.clients) / 1e3, 1),
        "kB down a client": round(record.download_bytes / len(record.clients) / 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks")
    parser.add_argument("--root", help="the folder above ku/ (default: $FEDLAB_MM_DATA or the user's cache folder)")
    parser.add_argument("--backbone", nargs="+", default=names("backbone"))
    parser.add_argument("--method", nargs="+", default=names("method"))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", default="out/bench", help="folder for bench.json and bench.md")
    options = parser.parse_args()
    try:
        data = fl.load("ku", root=options.root)
    except fl.FedlabError as error:
        print(f"{error}\nmeasuring on the toy set instead")
        data = fl.load("toy")
    cells = [(b, m) for b in options.backbone for m in options.method]
    rows = [
        measure(fl.Recipe(dataset=data.name, backbone=b, method=m), data, options.turns)
        for b, m in tqdm(cells, unit="cell", desc=f"bench on {data.name}")
    ]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.processor(), **versions()}
    (out / "bench.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2))
    lines = [
        "| " + " | ".join(map(str, row)) + " |"
        for row in [list(table), ["---"] * len(table.columns), *table.to_numpy()]
    ]
    (out / "bench.md").write_text("\n".join(lines) + "\n")
    print(f"\nwritten to {out / 'bench.json'} and {out / 'bench.md'}")


if __name__ == "__main__":
    main()
