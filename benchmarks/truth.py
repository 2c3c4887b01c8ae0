"""`python -m benchmarks.truth`: on the toy set the truth is planted. Does a method find it?

Three questions, each row of the first table tuned on validation over one small grid, all with the same budget:

1. Do fedvlr and fedmr beat no fusion, one shared MLP, and every single view?
2. Does a user's router weight on a signal's solo view follow the user's planted reliance on that signal?
3. Does the fall of a user's score, when training leaves a signal out, follow that reliance?

Rank correlations are Spearman's, over users, of means over seeds.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import fedlab_mm as fl

SIGNALS = {"image": "image", "text": "text", "id": "collaborative"}  # ours, and the truth's name for it
GRID = [{"optimizer": ["adam"], "lr": [0.003, 0.01]}, {"optimizer": ["sgd"], "lr": [0.3, 1.0]}]


def contestants(backbone: str) -> dict[str, fl.Recipe]:
    base = fl.Recipe(dataset="toy", backbone=backbone, patience=10)
    fedvlr = base.but(method="fedvlr")
    mixed = {"operators": ("sum", "solo"), "view_scale": 0.4}
    return {
        "none": base.but(method="none"),
        "mlp": base.but(method="mlp"),
        "fedvlr": fedvlr,
        "fedmr": base.but(method="fedmr"),
        **{f"{o} alone": fedvlr.but(operators=(o,)) for o in ("sum", "mlp", "gate", "attention")},
        **{f"{s} alone": fedvlr.but(operators=(f"solo:{s}",)) for s in SIGNALS},
        "fedvlr, solo views": fedvlr.but(operators=("solo",)),
        "fedvlr, sum and solo views": fedvlr.but(**mixed),
        "fedmr, sum and solo views": base.but(method="fedmr", **mixed),
    }


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.truth")
    parser.add_argument("--backbone", default="fcf")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="some of the rows")
    parser.add_argument("--out", default="out/truth", help="folder for the searches and the tables")
    options = parser.parse_args()
    data, seeds, out = fl.load("toy"), range(options.seeds), Path(options.out)
    reliance = pd.DataFrame(data.truth["reliance_US"], columns=["image", "text", "collaborative"])
    rows = {n: r for n, r in contestants(options.backbone).items() if not options.only or n in options.only}
    tuned = {
        n: fl.tune(r, GRID, data, out / options.backbone / n.replace(" ", "-").replace(",", ""))
        for n, r in rows.items()
    }
    of_recipe = {r: n for n, r in tuned.items()}
    table = fl.compare(list(tuned.values()), seeds, data, label=of_recipe.get)
    text = fl.show(table)
    text.insert(0, "valid ndcg@50", pd.Series(table.attrs["valid"]).round(3))
    text.insert(1, "lr", pd.Series({n: f"{r.optimizer} {r.lr}" for n, r in tuned.items()}))
    report = [text.to_string()]

    ours = [n for n in tuned if n.startswith("fed")]
    tests = {(a, b): fl.paired(table, a, b, metric="ndcg@50").round(4) for a in ours for b in tuned if b not in ours}
    if tests:
        report.append("Against the others, user by user (ndcg@50):\n" + pd.DataFrame(tests).T.to_string())

    for name, recipe in tuned.items():
        if not any(o.startswith("solo") for o in recipe.operators) or name not in ours:
            continue
        weights_UE = sum(fl.train(recipe.but(seed=s), data).router_weights() for s in seeds) / len(seeds)
        correlation = {
            view: {truth: spearmanr(weights_UE[view], reliance[truth])[0] for truth in reliance} for view in weights_UE
        }
        spread = weights_UE.agg(["mean", "std"]).T.add_prefix("weight ")
        found = pd.DataFrame(correlation).T.add_prefix("with reliance on ").join(spread)
        report.append(f"Router weights of '{name}':\n{found.round(2).to_string()}")

    users = table.attrs["users"]
    for name in ("fedvlr", "fedvlr, sum and solo views"):
        if name not in tuned:
            continue
        whole = users[users["row"] == name].groupby("user")["ndcg@50"].mean()
        falls = {}
        for signal, truth in SIGNALS.items():
            less = fl.compare([tuned[name].but(without=(signal,))], seeds, data, (), label=lambda r: "less")
            fall = whole - less.attrs["users"].groupby("user")["ndcg@50"].mean()
            test = spearmanr(fall, reliance[truth])
            leaning = data.truth["leans_U"] == list(reliance).index(truth)
            falls[f"without {signal}"] = {
                "fall of ndcg@50": fall.mean(),
                "of those who lean on it": fall[leaning].mean(),
                "of the others": fall[~leaning].mean(),
                "correlation with reliance": test[0],
                "p": test[1],
            }
        report.append(f"Leaving a signal out of '{name}':\n{pd.DataFrame(falls).T.round(3).to_string()}")
    text = "\n\n".join(report)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".{options.backbone}.partial"
    partial.write_text(text + "\n", encoding="utf-8", newline="\n")
    os.replace(partial, out / f"{options.backbone}.txt")
    print(f"\nwritten to {out / options.backbone}.txt; cores {os.cpu_count()}, users {len(np.unique(users['user']))}")


if __name__ == "__main__":
    main()
