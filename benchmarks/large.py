"""The large search: every cell with a budget that nobody can call small, and its controls.

    python -m benchmarks.large --root FOLDER --out FOLDER [--data ku toy] [--cells "fcf solved" fcf] [--budget 60]
    python -m benchmarks.large --out FOLDER --found fedlab_mm/figures/found.json

A cell is a backbone, solved or stepping, with a method. Its settings are drawn at random, as many for every cell, and
halved on validation: all of them for a third of the rounds, the best quarter for all rounds, the best of those with a
second seed. The winner of both seeds is trained with five, beside itself under the controls. Judged are warm
targets: a model with features, true or shuffled, is paid for cold ones by luck.
Everything is written as it comes, so that the same command goes on where it stopped: `search.csv` (a row for each
setting tried on each rung), `cells.csv` (a row for each cell, seed and control), and runs under `runs/`. What was
searched so far lies in `benchmarks/large_search`; `--out` a copy of it goes on from there.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import fedlab_mm as fl
from fedlab_mm.data.controls import controlled
from fedlab_mm.errors import DivergedError
from fedlab_mm.files import put

BACKBONES = ("fedavg", "fcf", "pfedrec", "fedrap", "fedncf", "fcf solved")
METHODS = ("none", "mlp", "vbpr", "fedvlr", "gfmfr", "prior", "prior-topics", "prior-views")
UNSOLVED = {"gfmfr"}  # is no square
FINAL = range(5)
# Each rung: the share of the settings that reach it, the share of the rounds that they train, their seeds.
RUNGS: tuple[tuple[float, float, tuple[int, ...]], ...] = ((1, 1 / 3, (0,)), (1 / 4, 1, (0,)), (1 / 12, 1, (0, 1)))
CONTROLS = ("", "shuffled")


def drawn(rng: np.random.Generator, backbone: str, method: str) -> dict[str, Any]:
    """Settings of one trial; rates and weights are log-uniform."""

    def between(low: float, high: float) -> float:
        return float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")

    def of(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    solved = backbone.endswith("solved")
    settings: dict[str, Any] = {"weight_decay": of(0.0, 1e-5, 1e-4, 1e-3)}
    if solved:
        settings |= {"solver": "closed", "server_optimizer": "adam", "shared_lr": between(1e-3, 5e-2)}
        settings |= {"reg": between(0.01, 0.3), "unobserved": between(3e-3, 0.3), "server_steps": of(1, 5, 20)}
        if method == "fedvlr":
            settings |= {"lr": between(0.01, 1.0), "local_epochs": of(1, 5)}
    elif of(True, False):
        settings |= {"optimizer": "sgd", "lr": between(0.1, 3.0), "local_epochs": of(1, 5, 10)}
    else:
        settings |= {"optimizer": "adam", "lr": between(1e-3, 3e-2), "local_epochs": of(1, 5, 10)}
    if method not in ("none", "gfmfr"):
        settings["feature_scale"] = of(0.03, 0.1, 0.3)
    if method in ("mlp", "vbpr", "fedvlr") and backbone != "fedncf":  # whose own table cannot begin silent
        settings["init_scale"] = of(0.1, 0.0)
    if method.startswith("prior"):
        settings |= {} if method == "prior" else {"towards": method.removeprefix("prior-")}
        settings |= {"pull": between(3e-3, 0.3), "ridge": between(0.01, 1.0)}
    if method == "gfmfr":
        settings |= {"distill": between(0.03, 1.0), "fit_epochs": 10}
    return settings


def cells(chosen: list[str], methods: list[str]) -> Iterator[tuple[str, str]]:
    for backbone in chosen:
        for method in methods:
            if not (backbone.endswith("solved") and method in UNSOLVED):
                yield backbone, method


def recipe_of(backbone: str, method: str, data: fl.Dataset, settings: dict[str, Any]) -> fl.Recipe:
    name, _, solved = backbone.partition(" ")
    rounds = 80 if solved else 60
    return fl.Recipe(dataset=data.name, backbone=name, method=method.partition("-")[0], rounds=rounds, patience=15).but(
        **settings
    )


def mean_valid(recipe: fl.Recipe, data: fl.Dataset, seeds: tuple[int, ...], cache: Path) -> float:
    """NDCG of warm validation targets, the best mean of five rounds in a row, over some seeds; minus one where one
    diverges. The best of eighty single rounds would be the luckiest: on KU a round is judged by 180 users."""
    values = []
    for seed in seeds:
        try:
            run = fl.train(recipe.but(seed=seed), data, progress=False, cache=cache)
            h = run.history
            warm = h.loc[(h["split"] == "valid") & (h["metric"] == f"{run.goal}/warm"), "value"]
            values.append(float(warm.rolling(5, min_periods=1).mean().iloc[min(4, len(warm) - 1) :].max()))
        except DivergedError:
            return -1.0
    return float(np.mean(values))


def append(path: Path, row: dict[str, Any]) -> None:
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False, lineterminator="\n")


def known(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["cell", "rung", "trial", "valid"])


def search(data: fl.Dataset, backbone: str, method: str, budget: int, out: Path) -> fl.Recipe:
    """The best of a cell's settings on validation, going on from what was tried."""
    path, cell = out / "search.csv", f"{data.name} {backbone} {method}"
    settings = [drawn(np.random.default_rng([trial, *cell.encode()]), backbone, method) for trial in range(budget)]
    trials = list(range(budget))
    for rung, (share, of_rounds, seeds) in enumerate(RUNGS):
        trials = trials[: max(2, round(budget * share))]
        tried = known(path)
        done = tried[(tried["cell"] == cell) & (tried["rung"] == rung)].set_index("trial")["valid"].to_dict()
        for trial in tqdm(trials, desc=f"{cell}, rung {rung + 1}", unit="setting"):
            if trial in done:
                continue
            recipe = recipe_of(backbone, method, data, settings[trial])
            recipe = recipe.but(rounds=round(recipe.rounds * of_rounds))
            done[trial] = mean_valid(recipe, data, seeds, out / "runs")
            row = {"cell": cell, "rung": rung, "trial": trial, "valid": done[trial]}
            append(path, row | {"settings": json.dumps(settings[trial])})
        trials = sorted(trials, key=lambda trial: -done[trial])
    return recipe_of(backbone, method, data, settings[trials[0]])


def final(data: fl.Dataset, backbone: str, method: str, recipe: fl.Recipe, out: Path) -> None:
    """Five seeds of the best setting, and the same under each control."""
    path, cell = out / "cells.csv", f"{data.name} {backbone} {method}"
    there = pd.read_csv(path) if path.exists() else pd.DataFrame({"cell": [], "control": [], "seed": []})
    done = set(zip(there["cell"], there["control"].fillna(""), there["seed"], strict=True))
    for control in CONTROLS if method != "none" else CONTROLS[:1]:
        for seed in FINAL:
            if (cell, control, seed) in done:
                continue
            world = controlled(data, control, seed) if control else data
            row: dict[str, Any] = {"cell": cell, "control": control, "seed": seed, "valid": np.nan}
            try:
                run = fl.train(recipe.but(seed=seed), world, progress=False, cache=out / "runs")
                row |= {"valid": run.best_valid, "round": run.best_round, "test": json.dumps(dict(run.test))}
            except DivergedError:
                row |= {"round": 0, "test": "{}"}
            append(path, row | {"settings": json.dumps(recipe.changed)})


def found(out: Path) -> dict[str, dict[str, Any]]:
    """FCF's cells as figures take them: dataset -> "clients + method" -> what differs from the defaults."""
    winners: dict[str, dict[str, Any]] = {}
    for cell, rows in known(out / "cells.csv").groupby("cell", sort=False):
        name, backbone, *solved, method = str(cell).split()
        changed = json.loads(rows.iloc[0]["settings"])
        if backbone == "fcf" and changed:
            client = "solved" if solved else "steps"
            own = {n: v for n, v in changed.items() if n not in ("dataset", "seed")}
            winners.setdefault(name, {})[f"{client} + {method}"] = {
                "backbone": backbone,
                "method": method.partition("-")[0],
                **own,
            }
    order = [f"{client} + {method}" for client in ("steps", "solved") for method in METHODS]
    return {name: {row: of[row] for row in order if row in of} for name, of in winners.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.large", description=__doc__)
    parser.add_argument("--root", help="the folder that holds the datasets")
    parser.add_argument("--found", type=Path, help="search nothing: write the best settings so far to this file")
    parser.add_argument("--out", required=True, type=Path, help="where everything goes, and is read back from")
    parser.add_argument("--data", nargs="+", default=["ku", "toy", "ml-latest-small", "ml-100k"])
    parser.add_argument("--cells", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budget", type=int, default=60, help="settings a cell [60]")
    options = parser.parse_args()
    if options.found:
        put(options.found, json.dumps(found(options.out), indent=1) + "\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in options.data:
        data = fl.load(name, root=options.root)
        for backbone, method in cells(options.cells, options.methods):
            try:
                recipe = search(data, backbone, method, options.budget, options.out)
            except fl.FedlabError as error:
                print(f"{name} {backbone} {method}: left out: {error}")
                continue
            final(data, backbone, method, recipe, options.out)


if __name__ == "__main__":
    main()
