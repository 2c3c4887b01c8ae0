"""Recipes beside each other and beside simple rivals: over seeds, and user by user."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab_mm.data.controls import controlled
from fedlab_mm.errors import AllDivergedError, DivergedError, FedlabError
from fedlab_mm.experiments.inputs import check_task, data_of
from fedlab_mm.experiments.train import train
from fedlab_mm.federation.pace import pace
from fedlab_mm.interrupts import Interrupted
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, Dataset
from fedlab_mm.registry import lookup, names
from fedlab_mm.tasks import Judged, Task, task_of


def compare(
    recipes: Sequence[Recipe],
    seeds: Sequence[int] = range(3),
    data: Dataset | ClickLog | None = None,
    baselines: Sequence[str] | None = None,
    progress: bool = True,
    label: Callable[[Recipe], str | None] = lambda recipe: None,
    cache: str | Path | None = None,
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """Train each recipe with each seed, beside simple baselines, on the same test targets: of a ranking HR and NDCG, of
    clicks AUC, LogLoss and GAUC (NaN where no user has several test showings).

    A run that diverges does not end the comparison: a warning names it, and its row has the other seeds, or none.

    Args:
        baselines: their names; "ease:200" sets the one number that a baseline takes (EASE's λ). If left
            out, popularity, itemknn, ease and ials; for clicks rate, user rate, logistic and trees.
        label: a recipe's name in the table, where the one made of what differs between recipes is too long.
        cache: a folder that keeps finished runs, as for `train`.
        controls: what to set beside each recipe that fuses, as further rows "…, shuffled": "shuffled" (features
            shuffled among items, anew for each seed), "noise" (Gaussian numbers of the same spread), "none" (no
            content). A gain is content's where it holds against "shuffled" (`paired`).

    Returns:
        A row per baseline and per recipe (in whose name every field that differs between recipes is named); columns
        (metric, "mean" | "sd"), over all targets and over warm and cold ones, with coverage and popularity rank of what
        is recommended. sd is the sample standard deviation over seeds, and missing where there is one value only.
        `show` prints it as mean ± sd. What each user got is in `table.attrs["users"]`, for `paired`; the recipes'
        validation NDCG@k, mean over seeds, in `table.attrs["valid"]`, to choose among rows by.

    Raises:
        FedlabError: no recipe or seed, recipes of several datasets, a name that is not there; every run diverged.
        Interrupted: Ctrl-C, a KeyboardInterrupt. Its `table` has what was finished.
    """
    if isinstance(recipes, Recipe) or isinstance(seeds, int):
        raise FedlabError("compare takes lists: compare([recipe], seeds=[0, 1, 2], …)")
    if not recipes or not len(seeds):
        raise FedlabError("compare needs at least one recipe and one seed")
    world: Any = data_of(recipes[0], data)
    for recipe in recipes:
        check_task(recipe, world)
    task = task_of(world)
    if len({r.dataset for r in recipes}) > 1 or len({task.yardstick(r) for r in recipes}) > 1:
        raise FedlabError("compare needs recipes of one dataset, with one k and one rule for ties")
    baselines = task.rivals if baselines is None else baselines
    labels = [label(recipe) or name for name, recipe in zip(_labels(recipes), recipes, strict=True)]
    plan = _with_controls(labels, recipes, controls)
    labels = [row for row, _, _ in plan]
    for row in labels:
        if [*baselines, *labels].count(row) > 1:
            raise FedlabError(f"compare: two rows would be named '{row}'; give each recipe a label of its own")
    rows: dict[str, list[dict[str, float]]] = {}
    users: list[pd.DataFrame] = []
    valid: dict[str, float] = {}

    def take(row: str, seed: int, judged: Judged) -> None:
        rows.setdefault(row, []).append(judged.metrics)
        users.append(judged.users.assign(row=row, seed=seed))

    for name in baselines:
        take(name, 0, task.judge_rival(name, world, recipes[0]))
    for row, recipe, control in plan:
        best = []
        rows[row] = []
        for seed in seeds:
            own = controlled(world, control, seed) if control else world
            try:
                run = train(recipe.but(seed=seed), own, f"{row}, seed {seed}" if progress else False, cache=cache)
            except DivergedError as error:
                warnings.warn(f"'{row}', seed {seed}: {error}", stacklevel=2)
                continue
            except Interrupted as stopped:
                finished = {name: results for name, results in rows.items() if results}
                raise Interrupted(
                    stopped.run, _compared(world.task, finished, users, valid) if users else None
                ) from None
            with pace(run.model, "evaluation on test"):
                take(row, seed, task.judge(run.model, "test"))
            best.append(run.best_valid)
        valid[row] = float(np.mean(best)) if best else np.nan
    if not users:
        raise AllDivergedError("compare: every run diverged; lower the learning rates (lr, shared_lr)")
    return _compared(world.task, rows, users, valid)


def _with_controls(
    labels: Sequence[str], recipes: Sequence[Recipe], controls: Sequence[str]
) -> list[tuple[str, Recipe, str]]:
    """(row, recipe, control of the data) of each row, controls behind the recipe that they are of.

    Raises:
        FedlabError: an unknown control, or nothing that fuses to set one beside.
    """
    controls = [controls] if isinstance(controls, str) else controls
    if controls and not any(recipe.method in names("method") and recipe.method != "none" for recipe in recipes):
        raise FedlabError(f"controls={list(controls)} stand beside methods that fuse, and none is among the recipes")
    for control in controls:
        if control != "none":
            lookup("control", control)
    plan: list[tuple[str, Recipe, str]] = []
    for row, recipe in zip(labels, recipes, strict=True):
        plan.append((row, recipe, ""))
        if recipe.method not in names("method") or recipe.method == "none":
            continue
        for control in controls:
            if control != "none":
                plan.append((f"{row}, {control}", recipe, control))
            elif recipe.but(method="none") not in [*recipes, *(r for _, r, _ in plan)]:
                plan.append((f"{row}, none", recipe.but(method="none"), ""))
    return plan


def _compared(
    task: str, rows: Mapping[str, list[dict[str, float]]], users: list[pd.DataFrame], valid: Mapping[str, float]
) -> pd.DataFrame:
    table: dict[tuple[str, str], list[float]] = {}
    for metric in next(results[0] for results in rows.values() if results):
        values = [np.array([result[metric] for result in results]) for results in rows.values()]
        table[metric, "mean"] = [float(v.mean()) if len(v) else np.nan for v in values]
        table[metric, "sd"] = [float(v.std(ddof=1)) if len(v) > 1 else np.nan for v in values]
    result = pd.DataFrame(table, index=list(rows))
    result.attrs = {"users": pd.concat(users, ignore_index=True), "valid": dict(valid), "task": task}
    return result


def paired(table: pd.DataFrame, a: str, b: str, metric: str, targets: str = "all") -> pd.Series:
    """How much more row a of a comparison has than row b, user by user.

    A user's figure is its mean over the row's seeds, and what is reported is the mean over users; users are what is
    drawn.

    Args:
        table: from `compare`; a, b: names of its rows; metric: "hr@50" or "ndcg@50", of clicks "auc" or "logloss".
        targets: "all", "warm" or "cold"; of clicks "all".

    Returns:
        difference (mean of a − b), low and high (95 % bootstrap interval), p (two-sided sign-flip permutation test),
        users. NaN where fewer than two users have such a target. Of "auc", which no single user has, users are
        drawn and exchanged with all their predictions, and AUC is taken anew for each seed.

    Raises:
        FedlabError: an unknown row, metric or kind of targets; a table that is not from `compare`.
    """
    if "users" not in table.attrs:
        raise FedlabError("this table does not hold what each user got: give paired the table that compare returned")
    users: pd.DataFrame = table.attrs["users"]
    task: Task = lookup("task", table.attrs.get("task", "ranking"))()
    if metric not in task.by_user(users):
        raise FedlabError(f"unknown metric '{metric}': there are: {', '.join(task.by_user(users))}")
    for row in (a, b):
        if row not in set(users["row"]):
            raise FedlabError(f"there is no row '{row}'; there are: {', '.join(table.index)}")
    return task.paired(users, a, b, metric, targets)


def show(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """A comparison as text, "mean ± sd".

    >>> columns = pd.MultiIndex.from_product([["hr@50"], ["mean", "sd"]])
    >>> show(pd.DataFrame([[0.5, 0.01], [0.25, float("nan")]], ["a", "b"], columns))
               hr@50
    a  0.500 ± 0.010
    b          0.250
    """
    text = {}
    for metric in dict.fromkeys(table.columns.get_level_values(0)):
        pairs = zip(table[metric, "mean"], table[metric, "sd"], strict=True)
        text[metric] = [
            "–" if np.isnan(m) else f"{m:.{digits}f}" + ("" if np.isnan(sd) else f" ± {sd:.{digits}f}")
            for m, sd in pairs
        ]
    return pd.DataFrame(text, index=table.index)


def _labels(recipes: Sequence[Recipe]) -> list[str]:
    """backbone + method; among recipes that would read alike, also the fields in which they differ."""
    labels = [r.label for r in recipes]
    for field in dict.fromkeys(name for recipe in recipes for name in recipe.to_dict()):
        for label in {x for x in labels if labels.count(x) > 1}:
            alike = [n for n, x in enumerate(labels) if x == label]
            values = [recipes[n].to_dict().get(field) for n in alike]
            if len(set(values)) > 1:
                for n, value in zip(alike, values, strict=True):
                    text = " ".join(value) if isinstance(value, tuple) else value
                    labels[n] = f"{label}, {field}={text}"
    if len(set(labels)) < len(labels):
        raise FedlabError(f"compare was given one recipe twice: {max(labels, key=labels.count)}")
    return labels
