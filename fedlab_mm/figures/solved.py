"""What a federation is worth once its clients solve what can be solved, and whether content is worth anything then."""

import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from fedlab_mm import plotting
from fedlab_mm.experiments.compare import compare
from fedlab_mm.experiments.train import train
from fedlab_mm.figures.base import METRICS, Exhibit, as_settings
from fedlab_mm.figures.comparison import reported_cells
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup, register
from fedlab_mm.tasks.ranking import Ranking

RIVALS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "popularity": ({},),
    "itemknn": ({},),
    "ease": tuple({"regularisation": r} for r in (20, 50, 100, 200, 500, 1000)),
    "ials": tuple(
        {"regularisation": r, "unobserved": a} for r in (0.03, 0.06, 0.12, 0.25) for a in (0.01, 0.03, 0.1, 0.3)
    ),
}
AGAINST = ("shuffled", "none", "ease", "ials")


def found() -> dict[str, dict[str, dict[str, Any]]]:
    """What the large search found (`python -m benchmarks.large`): dataset -> "clients + method" -> settings."""
    text = resources.files("fedlab_mm.figures").joinpath("found.json").read_text(encoding="utf-8")
    return json.loads(text)


class SolvedClients(Exhibit):
    """Clients that step and clients that solve, under each method, beside themselves with shuffled features."""

    source = "none: FCF's own paper solves for its clients, the papers on fusion compare with one that steps"
    seeds = (0, 1, 2, 3, 4)
    told: ClassVar[str] = (
        "mean and range of five seeds at the best of 60 settings a cell, chosen by warm targets on validation. Hollow: "
        "the same with features shuffled among items. Lines: rivals that see all interactions in one place, EASE and "
        "iALS tuned on validation too."
    )

    def recipes(self) -> dict[str, Recipe]:
        own = found()[str(self.dataset)]
        return {name: Recipe(dataset=str(self.dataset), **settings) for name, settings in own.items()}

    def settings(self) -> dict[str, Any]:
        rivals = {name: [dict(setting) for setting in grid] for name, grid in RIVALS.items()}
        return {**as_settings(self.recipes()), "seeds": list(self.seeds), "rivals": rivals}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        recipes = self.recipes()
        names = {recipe: name for name, recipe in recipes.items()}
        table = compare(
            list(recipes.values()),
            self.seeds,
            data,
            baselines=(),
            label=names.get,
            cache=cache,
            controls=("shuffled",) if any(r.method != "none" for r in recipes.values()) else (),
        )
        users, rivals = [table.attrs["users"]], []
        for name in RIVALS:
            metrics, of_users = best_rival(name, data, next(iter(recipes.values())))
            rivals.append({"row": name, "control": "", "seed": 0, **{m: metrics[m] for m in METRICS}})
            users.append(of_users.assign(row=name, seed=0))
        table.attrs["users"] = pd.concat(users, ignore_index=True)
        rows = [dict(rival) for rival in rivals]
        for row in table.index:
            name, _, control = str(row).partition(", ")
            gains = {} if control else _gains(table, name, [str(r) for r in table.index])
            for seed, metrics in _by_seed(table, str(row)).items():
                rows.append({"row": name, "control": control, "seed": seed, **metrics, **gains})
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        printed = None
        if self.dataset == "ku":
            cells = reported_cells("fedvlr_table2")
            cells = cells[(cells["backbone"] == "fcf") & cells["variant"].isin(["none", "fedvlr"])]
            printed = dict(zip("steps + " + cells["variant"], cells["ndcg@50"], strict=True))
        return plotting.plot_solved(table, printed)


def best_rival(name: str, data: Dataset, recipe: Recipe) -> tuple[dict[str, float], pd.DataFrame]:
    """A rival's metrics on test, and each user's, at the numbers that validate best on warm targets."""
    task, best, chosen = Ranking(), -math.inf, None
    for numbers in RIVALS[name]:
        scores_UI = lookup("baseline", name)(**numbers).scores(data)
        value = task.judge_scores(scores_UI, data, "valid", recipe).metrics[f"{task.goal(recipe)}/warm"]
        if value > best:
            best, chosen = value, scores_UI
    judged = task.judge_scores(chosen, data, "test", recipe)
    return judged.metrics, judged.users


def _by_seed(table: pd.DataFrame, row: str) -> dict[int, dict[str, float]]:
    """The metrics of each seed, from what each user got."""
    users: pd.DataFrame = table.attrs["users"]
    metrics = {}
    for seed in users.loc[users["row"] == row, "seed"].unique().tolist():
        part = users[(users["row"] == row) & (users["seed"] == seed)]
        of = {m: part[m].mean() for m in METRICS if "/" not in m}
        metrics[seed] = of | {f"{m}/warm": part.loc[part["warm"], m].mean() for m in of}
    return metrics


def _gains(table: pd.DataFrame, name: str, rows: list[str]) -> dict[str, float]:
    """How much more NDCG of warm targets a row has than its control, than its client without content, than rivals."""
    client = name.partition(" + ")[0]
    others = {"shuffled": f"{name}, shuffled", "none": f"{client} + none", "ease": "ease", "ials": "ials"}
    gains: dict[str, float] = {}
    for against in AGAINST:
        other = others[against]
        if other != name and (other in rows or other in RIVALS):
            told = _paired(table, name, other)
            gains |= {f"{of} over {against}": told[of] for of in ("difference", "low", "high", "p")}
    return gains


def _paired(table: pd.DataFrame, a: str, b: str) -> pd.Series:
    return Ranking().paired(table.attrs["users"], a, b, "ndcg@50", "warm")


@register("figure", "solved-ku")
class SolvedOnKU(SolvedClients):
    caption = f"KU, FCF, NDCG@50: {SolvedClients.told} Crosses: what FedVLR prints."


@register("figure", "solved-toy")
class SolvedOnToy(SolvedClients):
    dataset = "toy"
    caption = f"The toy set, FCF, NDCG@50: {SolvedClients.told}"


@register("figure", "solved-ml")
class SolvedOnML(SolvedClients):
    dataset = "ml-latest-small"
    caption = (
        f"ml-latest-small, whose posters and abstracts an offline encoder reads, FCF, NDCG@50: {SolvedClients.told}"
    )


@register("figure", "solved-ml-100k")
class SolvedOnML100K(SolvedClients):
    dataset = "ml-100k"
    caption = f"MovieLens 100K, whose titles and posters an offline encoder reads, FCF, NDCG@50: {SolvedClients.told}"


@register("figure", "rounds-ku")
class Rounds(Exhibit):
    """Validation NDCG by rounds and by bytes, of clients that step and of clients that solve."""

    source = "none: what a round and its bytes buy"
    caption = (
        "FCF on KU without fusion: NDCG@50 of warm targets on validation by rounds, and by what one client has "
        "uploaded; mean of three seeds. Of clients that solve the server takes one step a round, or several from the "
        "same sums. Line: 95 % of the best figure of all."
    )
    steps: ClassVar[tuple[int, ...]] = (1, 5, 20)

    def recipes(self) -> dict[str, Recipe]:
        step = Recipe(dataset="ku", backbone="fcf", method="none", rounds=60)
        solved = step.but(solver="closed", server_optimizer="adam", shared_lr=0.02)
        solving = {f"solves, {n} server step{'s'[: n > 1]}": solved.but(server_steps=n) for n in self.steps}
        return {"steps (SGD)": step, **solving}

    def settings(self) -> dict[str, Any]:
        return {**as_settings(self.recipes()), "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        tables = []
        for name, recipe in tqdm(self.recipes().items(), desc="rounds", unit="client"):
            for seed in self.seeds:
                run = train(recipe.but(seed=seed), data, progress=False, cache=cache)
                h = run.history
                valid = h[(h["split"] == "valid") & (h["metric"] == f"{run.goal}/warm")].set_index("round")["value"]
                sent = h[h["metric"] == "upload_bytes"].set_index("round")["value"].cumsum() / data.n_users
                told = {"client": name, "seed": seed, "round": valid.index, "ndcg": valid.to_numpy()}
                tables.append(pd.DataFrame({**told, "kilobytes": sent.reindex(valid.index).to_numpy() / 1000}))
        return pd.concat(tables, ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plotting.plot_rounds(table)


def reach(table: pd.DataFrame, share: float = 0.95) -> pd.DataFrame:
    """When each client first reaches a share of the best figure of all, and of its own best: rounds, and kilobytes
    that one client has uploaded by then; NaN where it never does."""
    means = table.groupby(["client", "round"], sort=False)[["ndcg", "kilobytes"]].mean().reset_index()
    rows = {}
    for name, part in means.groupby("client", sort=False):
        row = {"best": part["ndcg"].max()}
        for of, best in (("all", means["ndcg"].max()), ("its own", part["ndcg"].max())):
            there = part[part["ndcg"] >= share * best]
            first = there.iloc[0] if len(there) else {"round": np.nan, "kilobytes": np.nan}
            row |= {f"rounds to {share:.0%} of {of}": first["round"], f"kB to {share:.0%} of {of}": first["kilobytes"]}
        rows[name] = row
    return pd.DataFrame(rows).T
