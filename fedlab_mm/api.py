"""Everything composed: load data, train a recipe, open its rounds, compare recipes over seeds."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.records import Dataset, Recipe, RoundRecord, Run
from fedlab_mm.registry import lookup, names
from fedlab_mm.simulation import Engine

BASELINES = ("popularity", "itemknn", "ease")


def load(name: str, root: str | os.PathLike[str] | None = None, seed: int = 0) -> Dataset:
    """A dataset by name: "toy" is generated; "ku" is read from `root`, $FEDLAB_MM_DATA or the user's cache folder.

    Args:
        root: the dataset's folder, or the folder that holds it.
        seed: of generated data.

    Raises:
        FedlabError: an unknown name, files that are not there (the message says where to get them), bad content.

    >>> load("toy").n_items
    500
    """
    return lookup("dataset", name).load(root=root, seed=seed)


def rounds(recipe: Recipe, data: Dataset | None = None, resume: Run | None = None) -> Iterator[RoundRecord]:
    """The federated loop, opened: one record a round, while it happens.

    `record.metrics` are those of validation, in the rounds that the recipe evaluates (every `evaluate_every`-th, and
    the last); `record.model` is the live engine, to be measured in any other way.

    Args:
        recipe: what to run; data: what on, loaded by the recipe's name if left out.
        resume: go on from this run's last round, up to `recipe.rounds`.

    Raises:
        DivergedError: a round left the finite numbers; the records before it have been given out.

    >>> toy = load("toy")
    >>> [record.round for record in rounds(Recipe(method="none", rounds=2), toy)]
    [1, 2]
    """
    data = _data_of(recipe, data)
    _check_cutoff(recipe, data)
    engine: Engine = lookup("engine", recipe.engine)(recipe, data)
    if resume is not None:
        _check_resume(recipe, data, resume)
        engine.load_state(dict(resume.last_state))
    while engine.round < recipe.rounds:
        record = engine.step()
        if record.round % recipe.evaluate_every == 0 or record.round == recipe.rounds:
            metrics = evaluate_split(engine.scores(), data, "valid", recipe.k, recipe.ties)
            record = replace(record, metrics=metrics)
        yield record


def train(recipe: Recipe, data: Dataset | None = None, progress: bool = True, resume: Run | None = None) -> Run:
    """Train a recipe and report it at its best validation round.

    Args:
        recipe: what to train; data: what on, loaded by the recipe's name if left out.
        progress: show a bar with round, loss and validation NDCG.
        resume: a run (saved and loaded, perhaps) of the same recipe with fewer rounds, to go on from.

    Returns:
        The run; `run.test` at the round with the highest validation NDCG@k (the first of equals).

    Raises:
        DivergedError: training left the finite numbers. Its `run` is the run up to the last good round.
    """
    data = _data_of(recipe, data)
    ndcg = f"ndcg@{recipe.k}"
    history: list[pd.DataFrame] = [] if resume is None else [resume.history]
    best_round, best_value, best_state = 0, -1.0, None
    engine: Engine = lookup("engine", recipe.engine)(recipe, data)
    if resume is not None:
        _check_resume(recipe, data, resume)
        best_round, best_state = resume.best_round, resume.model.state()
        past = resume.history
        best_value = float(past["value"][(past["round"] == best_round) & (past["metric"] == ndcg)].iloc[0])

    def finish(last_state: dict[str, torch.Tensor]) -> Run:
        state = best_state if best_state is not None else last_state
        engine.load_state(state)
        test = evaluate_split(engine.scores(), data, "test", recipe.k, recipe.ties)
        table = pd.concat(history, ignore_index=True) if history else _history_rows([])
        return Run(recipe, data, table, test, best_round, engine, last_state)

    started = 0 if resume is None else int(resume.last_state["round"])
    last_state = engine.state() if resume is None else dict(resume.last_state)
    bar = tqdm(
        total=recipe.rounds,
        initial=started,
        desc=f"{recipe.label}, seed {recipe.seed}",
        unit="round",
        disable=not progress,
    )
    record = None
    try:
        for record in rounds(recipe, data, resume):
            history.append(_history_rows([record]))
            if record.metrics and record.metrics[ndcg] > best_value:
                best_round, best_value = record.round, record.metrics[ndcg]
                best_state = record.model.state()
            bar.set_postfix({"loss": f"{record.loss:.4f}", f"valid {ndcg}": f"{best_value:.4f}"}, refresh=False)
            bar.update()
    except DivergedError as error:
        if record is not None:
            last_state = record.model.state()
        raise DivergedError(error.round, error.client, finish(last_state)) from None
    finally:
        bar.close()
    if record is not None:
        last_state = record.model.state()
    return finish(last_state)


def load_run(
    folder: str | os.PathLike[str], data: Dataset | None = None, root: str | os.PathLike[str] | None = None
) -> Run:
    """Read what `Run.save` wrote; `train(recipe, data, resume=run)` goes on from it, bit for bit.

    Args:
        data: the dataset, loaded by the recipe's name (from `root`) if left out.

    Raises:
        FedlabError: a file is missing or damaged, or the data are not those of the run.
    """
    folder = Path(folder)
    for file in ("recipe.json", "run.json", "history.csv", "best.safetensors", "last.safetensors"):
        if not (folder / file).is_file():
            raise FedlabError(f"{folder} holds no saved run: {file} is missing")
    try:
        recipe = Recipe.from_json((folder / "recipe.json").read_text())
        about = json.loads((folder / "run.json").read_text())
        history = pd.read_csv(folder / "history.csv")
        best_state = load_file(folder / "best.safetensors")
        last_state = load_file(folder / "last.safetensors")
    except FedlabError:
        raise
    except (ValueError, TypeError, SafetensorError) as error:
        raise FedlabError(f"{folder} holds a damaged run: {error}") from None
    data = data if data is not None else load(recipe.dataset, root)
    if data.fingerprint != about["data"]["sha256"]:
        raise FedlabError(
            f"{folder} was trained on other data than this {data.name}: "
            f"sha256 {about['data']['sha256'][:12]}… there, {data.fingerprint[:12]}… here"
        )
    engine: Engine = lookup("engine", recipe.engine)(recipe, data)
    engine.load_state(best_state)
    return Run(recipe, data, history, about["test"], about["best_round"], engine, last_state)


def compare(
    recipes: Sequence[Recipe],
    seeds: Sequence[int] = range(3),
    data: Dataset | None = None,
    baselines: Sequence[str] = BASELINES,
    progress: bool = True,
) -> pd.DataFrame:
    """Train each recipe with each seed, beside simple baselines, on the same test targets.

    Returns:
        A row per baseline and per recipe (in which every field that differs between recipes is named); columns
        (metric, "mean" | "sd"), over all targets and over warm and cold ones. sd is the sample standard deviation over
        seeds, and missing where there is one value only. `show` prints it as mean ± sd.
    """
    if not recipes or not len(seeds):
        raise FedlabError("compare needs at least one recipe and one seed")
    if len({r.dataset for r in recipes}) > 1 or len({(r.k, r.ties) for r in recipes}) > 1:
        raise FedlabError("compare needs recipes of one dataset, with one k and one rule for ties")
    data = _data_of(recipes[0], data)
    k, ties = recipes[0].k, recipes[0].ties
    rows: dict[str, list[dict[str, float]]] = {}
    for name in baselines:
        scores_UI = lookup("baseline", name)().scores(data)
        rows[name] = [evaluate_split(scores_UI, data, "test", k, ties)]
    for label, recipe in zip(_labels(recipes), recipes, strict=True):
        rows[label] = [dict(train(recipe.but(seed=s), data, progress).test) for s in seeds]
    table: dict[tuple[str, str], list[float]] = {}
    for metric in rows[next(iter(rows))][0]:
        values = [np.array([result[metric] for result in results]) for results in rows.values()]
        table[metric, "mean"] = [float(v.mean()) for v in values]
        table[metric, "sd"] = [float(v.std(ddof=1)) if len(v) > 1 else np.nan for v in values]
    return pd.DataFrame(table, index=list(rows))


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


def count_parameters(
    recipe: Recipe, n_users: int, n_items: int, widths: dict[str, int] | None = None
) -> dict[str, int]:
    """How many numbers a recipe keeps and moves, counted on its real modules.

    Args:
        n_users, n_items: the size of the federation.
        widths: modality -> feature width (default: image and text, 512 each).

    Returns:
        client: what one client holds: what it is sent, and its private parameters (FedVLR's Table 3).
        private: the part of it that never leaves; server: the shared parameters, features not counted;
        download, upload: numbers per client and round; upload is the most, where every item is touched;
        federation: the server and all clients' private parameters.

    >>> count_parameters(Recipe(method="fedvlr"), n_users=204, n_items=560)["client"]
    120132
    >>> count_parameters(Recipe(method="none"), n_users=204, n_items=560)["client"]
    35905
    """
    widths = {"image": 512, "text": 512} if widths is None else widths
    with torch.device("meta"):
        features = {m: torch.empty(n_items, width) for m, width in widths.items()}
        method = lookup("method", recipe.method)(recipe, n_items, features)
        views = method.broadcast().numel()
    private = sum(p.numel() for p in method.client.parameters())
    server = sum(p.numel() for p in method.shared.parameters())
    return {
        "client": views + private,
        "private": private,
        "server": server,
        "download": views,
        "upload": views,
        "federation": server + n_users * private,
    }


def _data_of(recipe: Recipe, data: Dataset | None) -> Dataset:
    return load(recipe.dataset) if data is None else data


def _check_cutoff(recipe: Recipe, data: Dataset) -> None:
    if recipe.k > data.n_items:
        raise FedlabError(f"k={recipe.k}: {data.name} has only {data.n_items} items")


def _check_resume(recipe: Recipe, data: Dataset, resume: Run) -> None:
    free = {"rounds": 1, "engine": "stacked", "chunk": 1, "evaluate_every": 1}
    if recipe.but(**free) != resume.recipe.but(**free):
        raise FedlabError("a run can be resumed only by its own recipe; rounds alone may grow")
    if data.fingerprint != resume.data.fingerprint:
        raise FedlabError(f"a run can be resumed only on its own data; {data.name} is not that of the run")
    if int(resume.last_state["round"]) > recipe.rounds:
        raise FedlabError(f"rounds={recipe.rounds}: the run to resume has {int(resume.last_state['round'])} already")


def _history_rows(records: Sequence[RoundRecord]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for r in records:
        of_training = {"loss": r.loss, "upload_bytes": r.upload_bytes, "download_bytes": r.download_bytes}
        rows += [dict(round=r.round, split="train", metric=m, value=float(v)) for m, v in of_training.items()]
        rows += [dict(round=r.round, split="valid", metric=m, value=v) for m, v in r.metrics.items()]
    return pd.DataFrame(rows, columns=["round", "split", "metric", "value"])


def _labels(recipes: Sequence[Recipe]) -> list[str]:
    """backbone + method; among recipes that would read alike, also the fields in which they differ."""
    labels = [r.label for r in recipes]
    for field in Recipe.__dataclass_fields__:
        for label in {x for x in labels if labels.count(x) > 1}:
            alike = [n for n, x in enumerate(labels) if x == label]
            values = [getattr(recipes[n], field) for n in alike]
            if len(set(values)) > 1:
                for n, value in zip(alike, values, strict=True):
                    text = " ".join(value) if isinstance(value, tuple) else value
                    labels[n] = f"{label}, {field}={text}"
    if len(set(labels)) < len(labels):
        raise FedlabError(f"compare was given one recipe twice: {max(labels, key=labels.count)}")
    return labels


def available() -> dict[str, list[str]]:
    """Every family's registered names.

    >>> available()["method"]
    ['fedvlr', 'none']
    """
    families = ("dataset", "operator", "backbone", "method", "aggregation", "engine", "baseline")
    return {family: names(family) for family in families}
