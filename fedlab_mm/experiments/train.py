"""One training: its rounds, opened; and the run that it ends in."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.experiments.cache import kept
from fedlab_mm.experiments.inputs import data_of
from fedlab_mm.experiments.run import Run
from fedlab_mm.federation import Federation
from fedlab_mm.federation.pace import pace
from fedlab_mm.interrupts import Interrupted, patient
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, Dataset, Model, RoundRecord
from fedlab_mm.tasks import federation_of, task_of


def rounds(recipe: Recipe, data: Dataset | ClickLog | None = None, resume: Run | None = None) -> Iterator[RoundRecord]:
    """The federated loop, opened: one record a round, while it happens.

    `record.metrics` are those of validation, in the rounds that the recipe evaluates (every `evaluate_every`-th, and
    the last); `record.model` is the live engine, to be measured in any other way. It ends after `recipe.rounds`, or
    once validation NDCG@k has not risen for `recipe.patience` validations.

    Args:
        recipe: what to run; data: what on, loaded by the recipe's name if left out.
        resume: go on from this run's last round, up to `recipe.rounds`.

    Raises:
        DivergedError: a round left the finite numbers; the records before it have been given out.

    >>> from fedlab_mm.data.load import load
    >>> toy = load("toy")
    >>> [record.round for record in rounds(Recipe(method="none", rounds=2), toy)]
    [1, 2]
    """
    data = data_of(recipe, data)
    task_of(data).check(recipe, data)
    return _rounds(_engine_of(recipe, data, resume), resume)


def _engine_of(recipe: Recipe, data: Dataset | ClickLog, resume: Run | None) -> Federation:
    if resume is not None:
        _check_resume(recipe, data, resume)
    engine: Federation = federation_of(recipe, data)
    if resume is not None:
        engine.load_state(dict(resume.last_state))
    return engine


def _rounds(engine: Federation, resume: Run | None) -> Iterator[RoundRecord]:
    recipe, goal = engine.recipe, task_of(engine.data).goal(engine.recipe)
    waited, best = _waited(goal, resume)
    while engine.round < recipe.rounds and not (recipe.patience and waited >= recipe.patience):
        record = engine.step()
        if record.round % recipe.evaluate_every == 0 or record.round == recipe.rounds:
            metrics = metrics_of(engine, "valid")
            record = replace(record, metrics=metrics)
            value = metrics[goal]
            waited, best = (0, value) if value > best else (waited + 1, best)
        yield record


def metrics_of(engine: Any, split: str) -> dict[str, float]:
    """Of a split's targets, as the task has them."""
    with pace(engine, f"evaluation on {split}"):
        return task_of(engine.data).judge(engine, split).metrics


def untrained(recipe: Recipe, data: Dataset | ClickLog | None = None) -> Model:
    """The federation before its first round: what every client begins with.

    >>> from fedlab_mm.data.load import load
    >>> toy = load("toy")
    >>> sorted(untrained(Recipe(method="fedmr"), toy).signals())
    ['id', 'image', 'text']
    """
    data = data_of(recipe, data)
    return _engine_of(recipe, data, None)


def train(
    recipe: Recipe,
    data: Dataset | ClickLog | None = None,
    progress: bool | str = True,
    resume: Run | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Run:
    """Train a recipe and report it at its best validation round.

    Args:
        recipe: what to train; data: what on, loaded by the recipe's name if left out.
        progress: show a bar with round, loss and the best on validation; a text stands in it.
        resume: a run (saved and loaded, perhaps) of the same recipe with fewer rounds, to go on from.
        cache: a folder that keeps finished runs. One of this recipe, on these data, by this code, is read back instead
            of trained again; one that was interrupted goes on.

    Returns:
        The run; `run.test` at the round with the highest validation NDCG@k, of clicks AUC (the first of equals).

    Raises:
        DivergedError: training left the finite numbers. Its `run` is the run up to the last good round.
        Interrupted: Ctrl-C, a KeyboardInterrupt. Its `run` is the run up to the last whole round.
    """
    data = data_of(recipe, data)
    if cache is not None:
        return kept(recipe, data, resume, Path(cache), lambda begun: train(recipe, data, progress, begun))
    history: list[pd.DataFrame] = [] if resume is None else [resume.history]
    best_round, best_value, best_state = 0, -1.0, None
    code = recipe.code  # now, for a member may be changed while this trains
    task_of(data).check(recipe, data)
    engine = _engine_of(recipe, data, resume)
    goal = task_of(data).goal(recipe)
    if resume is not None:
        best_round, best_state = resume.best_round, resume.model.state() if resume.best_round else None
        if resume.best_round:
            best_value = resume.best_valid

    def finish() -> Run:
        last_state = engine.state()
        if best_state is not None:
            engine.load_state(best_state)
        test = metrics_of(engine, "test")
        table = pd.concat(history, ignore_index=True) if history else _history_rows([])
        return Run(recipe, data, table, test, best_round, engine, last_state, code)

    started = 0 if resume is None else int(resume.last_state["round"])
    bar = tqdm(
        total=recipe.rounds,
        initial=started,
        desc=progress if isinstance(progress, str) else f"{recipe.label}, seed {recipe.seed}",
        unit="round",
        disable=not progress,
    )
    try:
        with patient() as stop_asked:
            for record in _rounds(engine, resume):
                history.append(_history_rows([record]))
                if record.metrics and record.metrics[goal] > best_value:
                    best_round, best_value = record.round, record.metrics[goal]
                    best_state = None  # two snapshots are not held at once
                    best_state = engine.state()
                bar.set_postfix({"loss": f"{record.loss:.4f}", f"valid {goal}": f"{best_value:.4f}"}, refresh=False)
                bar.update()
                if stop_asked():
                    bar.close()
                    raise Interrupted(finish())
    except DivergedError as error:
        raise DivergedError(error.round, error.client, finish()) from None
    finally:
        bar.close()
    return finish()


def _waited(goal: str, resume: Run | None) -> tuple[int, float]:
    """For how many validations the run to resume has not got better, and its best."""
    if resume is None:
        return 0, -1.0
    past = resume.history[(resume.history["split"] == "valid") & (resume.history["metric"] == goal)]
    values = past["value"].to_numpy()
    if not len(values):
        return 0, -1.0
    return len(values) - 1 - int(values.argmax()), float(values.max())


def _check_resume(recipe: Recipe, data: Dataset | ClickLog, resume: Run) -> None:
    free: dict[str, Any] = {
        "rounds": 1,
        "patience": None,
        "engine": "stacked",
        "chunk": 1,
        "device": "cpu",
        "evaluate_every": 1,
    }
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
