"""A search over settings, judged on validation."""

import itertools
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fedlab_mm.errors import AllDivergedError, DivergedError, FedlabError
from fedlab_mm.experiments.inputs import data_of
from fedlab_mm.experiments.run import Run
from fedlab_mm.experiments.train import train
from fedlab_mm.files import put
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, Dataset


def tune(
    recipe: Recipe,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    data: Dataset | ClickLog | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    seeds: Sequence[int] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Recipe:
    """The recipe with those of the grid's settings that validate best: every combination, judged by validation NDCG@k
    at its best round. Test targets are not looked at.

    Args:
        grid: field -> values, all combinations of which are tried; or several such grids, tried one after the other.
        folder: keep the search here. `tuning.csv` has a row for every setting ever tried here and is read back, so that
            an interrupted search goes on where it stopped and a grid may grow; rows that other code has made are tried
            anew. `best/` is the run of the returned recipe with the first seed, saved, with the table.
        seeds: train each setting with each of these and judge it by the mean; the recipe's own seed if left out.
        cache: a folder that keeps every run that was trained, as `train` does.

    Returns:
        The best recipe, with its own seed. The first of equals; settings that diverge with any seed are out.

    Raises:
        FedlabError: an empty grid, a field that a recipe has not or that decides what is measured, a value that it does
            not take, a folder that holds the search of another recipe or dataset; every setting diverged.
    """
    data = data_of(recipe, data)
    settings = _settings([grid] if isinstance(grid, Mapping) else list(grid))
    recipes = [recipe.but(**setting) for setting in settings]  # all are checked before any is trained
    tried = [recipe.seed] if seeds is None else [recipe.but(seed=seed).seed for seed in seeds]
    if not tried:
        raise FedlabError("seeds is empty: give at least one")
    place = None if folder is None else Path(folder)
    known = _search_so_far(place, recipe, tried, data)
    keys = [json.dumps({n: getattr(r, n) for n in s}, sort_keys=True) for s, r in zip(settings, recipes, strict=True)]
    codes = {key: candidate.code for key, candidate in zip(keys, recipes, strict=True)}
    others = [key for key in keys if key in known and known[key]["code"] != codes[key]]
    if others:
        warnings.warn(f"{place}: {len(others)} settings were tried by other code, and are tried anew", stacklevel=2)
        known = {key: row for key, row in known.items() if key not in others}
    best = -1.0
    bar = tqdm(recipes, desc=f"tune {recipe.label}", unit="setting", disable=not progress)
    for key, candidate in zip(keys, bar, strict=True):
        if key not in known:
            row, run = _judge(candidate, tried, data, cache)
            row["code"] = codes[key]
            if place is not None:
                if run is not None and row["valid"] > best:
                    run.save(place / "best")
                put(place / "tuning.csv", _search_table({**known, key: row}))
            known[key] = row
        best = max(best, known[key]["valid"])  # NaN, of a setting that diverged, is never the greater
        bar.set_postfix({"valid": f"{best:.4f}"}, refresh=False)
    if best < 0:
        raise AllDivergedError("every setting of the grid diverged: try lower learning rates")
    winner = next(r for key, r in zip(keys, recipes, strict=True) if known[key]["valid"] == best)
    if place is not None:
        if not _is_run_of(place / "best", winner.but(seed=tried[0])):
            train(winner.but(seed=tried[0]), data, progress=False).save(place / "best")
        put(place / "best" / "tuning.csv", _search_table(known))
    return winner


def _is_run_of(folder: Path, recipe: Recipe) -> bool:
    """Does a folder hold a run of this recipe, by the code as it is now?"""
    try:
        kept = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8"))
        return kept == recipe and json.loads((folder / "run.json").read_text(encoding="utf-8"))["code"] == recipe.code
    except (OSError, ValueError, KeyError):
        return False


def _settings(grids: Sequence[Mapping[str, Sequence[Any]]]) -> list[dict[str, Any]]:
    settings: list[dict[str, Any]] = []
    for grid in grids:
        if not isinstance(grid, Mapping):
            raise FedlabError(f"a grid maps fields to their values, as in {{'lr': [0.01, 0.1]}}; got {grid!r}")
        for name, values in grid.items():
            if name in ("dataset", "seed", "k", "ties"):
                raise FedlabError(f"the grid has {name}: it decides what is measured")
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise FedlabError(f"the grid's {name} must be a list of values; got {values!r}")
        settings += [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not settings or {} in settings:
        raise FedlabError("the grid is empty: give at least one field with its values, e.g. {'lr': [0.01, 0.1]}")
    return settings


def _judge(
    candidate: Recipe, seeds: Sequence[int], data: Dataset | ClickLog, cache: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], Run | None]:
    """A row of a search, and the run of the first seed; none where a seed diverged."""
    start, run = time.perf_counter(), None
    try:
        runs = [train(candidate.but(seed=seed), data, progress=False, cache=cache) for seed in seeds]
        run = runs[0]
        row = {
            "valid": float(np.mean([r.best_valid for r in runs])),
            "best_round": run.best_round,
            "rounds": run.rounds_done,
        }
    except DivergedError as error:
        row = {"valid": float("nan"), "best_round": 0, "rounds": error.round}
    return {**row, "seconds": round(time.perf_counter() - start, 1)}, run


def _search_so_far(
    place: Path | None, recipe: Recipe, seeds: list[int], data: Dataset | ClickLog
) -> dict[str, dict[str, Any]]:
    if place is None:
        return {}
    about = {"recipe": json.loads(recipe.to_json()), "seeds": seeds, "data": data.fingerprint}
    try:
        place.mkdir(parents=True, exist_ok=True)
        if (place / "search.json").exists():
            kept = _read_json(place / "search.json")
            if other := [what for what in about if kept.get(what) != about[what]]:
                raise FedlabError(f"{place} holds a search of other {', '.join(other)}: choose another folder")
        put(place / "search.json", json.dumps(about, indent=2))
    except OSError as error:
        raise FedlabError(f"{place} cannot be written ({error.strerror}): choose another folder") from None
    if not (place / "tuning.csv").exists():
        return {}
    try:
        table = pd.read_csv(place / "tuning.csv").set_index("setting")
        return {str(key): table.loc[key, _SEARCH].to_dict() for key in table.index}
    except (KeyError, ValueError) as error:
        raise FedlabError(f"{place / 'tuning.csv'} is damaged ({error}): remove it, or choose another folder") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise FedlabError(f"{path} is damaged: remove its folder, or choose another")
    return kept


_SEARCH = ["valid", "best_round", "rounds", "seconds", "code"]


def _search_table(known: Mapping[str, Mapping[str, Any]]) -> str:
    table = pd.DataFrame.from_dict(dict(known), orient="index", columns=_SEARCH)
    return table.astype({"best_round": int, "rounds": int}).to_csv(index_label="setting", lineterminator="\n")
