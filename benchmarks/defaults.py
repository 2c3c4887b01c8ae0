"""`python -m benchmarks.defaults --root DATA --out FILE.csv`: a recipe that names dataset, backbone and method alone,
beside the simplest rival. Does it diverge? Does it beat popularity?

A cell is a line of the CSV as soon as it is done, and one that is there is not trained again. Small sets come first. On
sets of the papers' shapes there is nothing to learn but popularity, so a recipe can meet it there and not beat it.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import fedlab_mm as fl
from benchmarks.shapes import PAPERS, generated
from fedlab_mm.evaluation import evaluate_clicks, evaluate_split
from fedlab_mm.registry import lookup, names

RANKINGS = ("toy", "ku", "ml-100k", "ml-latest-small", "short-video", *PAPERS)
CLICKS = ("toy-clicks", "kuaisar-r")
METHODS = ("none", "fedvlr", "mlp", "vbpr", "gfmfr", "fedmr")


def load(name: str, root: str | None) -> Any:
    if name in PAPERS:
        return generated(name, *PAPERS[name])
    if name == "short-video":
        return fl.load(f"{root}/{name}", split="leave-one-out")  # the publishers' own leaves users without a target
    return fl.load(name, root=root, **({"encoder": "offline", "progress": False} if name.startswith("ml-") else {}))


def rivals(data: Any) -> dict[str, float]:
    """Popularity's figures on both splits; of clicks the AUC of every simple rival."""
    if isinstance(data, fl.ClickLog):
        found = {}
        for split in ("valid", "test"):
            shown = data.interactions[data.interactions["split"] == split]
            for name in ("user rate", "logistic", "trees"):
                logits = lookup("click baseline", name)().predict(data, split)
                found[f"{name}: {split} auc"] = evaluate_clicks(logits, shown["click"], shown["user"])["auc"]
        return found
    scores_UI = torch.as_tensor(lookup("baseline", "popularity")().scores(data))
    of = {split: evaluate_split(scores_UI, data, split, 50) for split in ("valid", "test")}
    return {f"popularity: {split} {m}": of[split][m] for split in of for m in ("ndcg@50", "hr@50")}


def measure(data: Any, recipe: fl.Recipe) -> dict[str, Any]:
    start = time.perf_counter()
    diverged: int | None = None
    try:
        run = fl.train(recipe, data, progress=False)
    except fl.DivergedError as error:
        diverged, run = error.round, error.run
    metrics = ("auc",) if isinstance(data, fl.ClickLog) else ("ndcg@50", "hr@50")
    valid = run.history[(run.history["split"] == "valid") & (run.history["round"] == run.best_round)]
    value = valid.set_index("metric")["value"]
    row = {"diverged in round": diverged, "best round": run.best_round}
    row |= {f"valid {m}": float(value.get(m, np.nan)) for m in metrics} | {f"test {m}": run.test[m] for m in metrics}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def cells(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    for method, name, seed in itertools.product(options.method, options.data, options.seeds):
        kind = "click " if name in CLICKS else ""
        if method in names(f"{kind}method"):
            yield from ((name, b, method, seed) for b in names(f"{kind}backbone") if b in options.backbone)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.defaults", description=__doc__)
    parser.add_argument("--root", help="the folder above ku/, ml-100k/, short-video/ and the others")
    parser.add_argument("--out", default="out/defaults.csv")
    parser.add_argument("--data", nargs="+", default=[*RANKINGS, *CLICKS])
    parser.add_argument("--method", nargs="+", default=[*METHODS, "mrff"])
    parser.add_argument("--backbone", nargs="+", default=sorted({*names("backbone"), *names("click backbone")}))
    parser.add_argument("--rounds", type=int, default=60, help="fewer for what takes long")
    parser.add_argument("--every", type=int, default=1, help="rounds between two validations")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--clients", type=float, default=1.0)
    options = parser.parse_args()
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(out).to_dict("records") if out.exists() else []
    done = {(row["data"], row["backbone"], row["method"], row["seed"]) for row in rows}
    loaded: dict[str, tuple[Any, dict[str, float]]] = {}
    for name, backbone, method, seed in cells(options):
        if (name, backbone, method, seed) in done:
            continue
        if name not in loaded:
            data = load(name, options.root)
            loaded[name] = data, rivals(data)
        data, beside = loaded[name]
        asked = {"rounds": options.rounds, "evaluate_every": options.every, "clients": options.clients}
        recipe = fl.Recipe(dataset=data.name, backbone=backbone, method=method, seed=seed).but(**asked)
        row = {"data": name, "backbone": backbone, "method": method, "seed": seed, **asked}
        row |= {**measure(data, recipe), **beside}
        rows.append(row)
        pd.DataFrame(rows).to_csv(out, index=False)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
