"""`python -m benchmarks.attack --root folder`: what five rounds of undefended uploads tell, however a recipe draws.

The item attack on KU, the toy set and a dense shop, for every backbone, both losses, and 1, 2, 4 and 8 negatives for
each item: AUC of all that uploads say, of which rows came alone, and of their side alone. All that uploads say should
give nearly one: less would say that the attack is weak, not that a client is safe. Under the squares learning rates are
0.03, or a tenth of it where that diverges.

A cell that stands in the file already is not measured again, so that what was stopped goes on.
"""

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.files import put
from fedlab_mm.registry import names

NEGATIVES = (1, 2, 4, 8)
RATES = (0.03, 0.003)
SIGNALS = {"uploads": "uploads", "touched": "uploads, touched only", "side": "uploads, side only"}


def dense(n_users: int = 60, n_items: int = 60, seed: int = 0) -> fl.Dataset:
    """A shop in which each user holds half to nine tenths of all items."""
    rng = np.random.default_rng(seed)
    held = [rng.permutation(n_items)[: rng.integers(n_items // 2, 9 * n_items // 10)] for _ in range(n_users)]
    log = pd.DataFrame([(u, i, when) for u, items in enumerate(held) for when, i in enumerate(items)])
    features = {m: rng.normal(size=(n_items, 16)) for m in ("image", "text")}
    titles = pd.DataFrame({"title": [f"item {i}" for i in range(n_items)]})
    return build("dense", log.set_axis(["user", "item", "timestamp"], axis=1), titles, features)


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for loss, data, backbone, negatives in itertools.product(
        names("loss"), options.data, options.backbone, options.negatives
    ):
        yield {"data": data, "backbone": backbone, "loss": loss, "negatives": negatives}


def measure(cell: dict[str, Any], data: fl.Dataset, rounds: int) -> dict[str, Any]:
    for rate in RATES if cell["loss"] == "squares" else (None,):
        recipe = fl.Recipe(
            dataset=cell["data"],
            backbone=cell["backbone"],
            method="none",
            loss=cell["loss"],
            negatives=cell["negatives"],
            lr=rate,
            shared_lr=rate,
        )
        try:
            with warnings.catch_warnings(record=True) as told:
                found = fl.attack("items", recipe, data, rounds=rounds, progress=False)["auc"]
            auc = {short: round(float(found[way]), 4) for short, way in SIGNALS.items()}
            return {**cell, "lr": rate, **auc, "warned": sum("one half" in str(w.message) for w in told)}
        except fl.DivergedError:
            pass
    raise SystemExit(f"{cell} diverges at every rate of {RATES}")


def table_of(rows: list[dict[str, Any]]) -> str:
    """The three AUC of each cell, a line for each set, backbone and loss."""
    lines = ["| data | backbone | loss | " + " | ".join(f"{n} negative{'s' * (n > 1)}" for n in NEGATIVES) + " |"]
    lines.append("| --- " * (3 + len(NEGATIVES)) + "|")
    for (data, backbone, loss), part in pd.DataFrame(rows).groupby(["data", "backbone", "loss"]):
        of = {row["negatives"]: " / ".join(f"{row[s]:.3f}" for s in SIGNALS) for _, row in part.iterrows()}
        lines.append(f"| {data} | {backbone} | {loss} | " + " | ".join(of.get(n, "–") for n in NEGATIVES) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.attack", description=__doc__)
    parser.add_argument("--root", help="the folder above ku/ (default: $FEDLAB_MM_DATA or the user's cache folder)")
    parser.add_argument("--data", nargs="+", default=["dense", "toy", "ku"], choices=["dense", "toy", "ku"])
    parser.add_argument("--backbone", nargs="+", default=names("backbone"))
    parser.add_argument("--negatives", nargs="+", type=int, default=NEGATIVES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="out/attack.json", help="the file of what is measured")
    options = parser.parse_args()
    out = Path(options.out)
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    sets = {name: dense() if name == "dense" else fl.load(name, root=options.root) for name in options.data}
    for cell in tqdm(list(cells(options)), unit="cell"):
        if not any(cell.items() <= row.items() for row in rows):
            rows.append(measure(cell, sets[cell["data"]], options.rounds))
            out.parent.mkdir(parents=True, exist_ok=True)
            put(out, json.dumps(rows, indent=1))
    print(table_of(rows))


if __name__ == "__main__":
    main()
