"""Everything composed: load data, train a recipe, open its rounds, compare recipes over seeds."""

import hashlib
import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from tqdm import tqdm

from fedlab_mm.attacks import Ledger, Scene
from fedlab_mm.errors import AllDivergedError, DivergedError, FedlabError, whole_number
from fedlab_mm.evaluation import evaluate_blocks, evaluate_clicks, paired_auc, paired_test
from fedlab_mm.files import put
from fedlab_mm.interrupts import Interrupted, patient
from fedlab_mm.methods import Method
from fedlab_mm.records import ClickLog, Dataset, Model, Recipe, RoundRecord, Run, free_folder
from fedlab_mm.registry import lookup, names
from fedlab_mm.simulation import Engine
from fedlab_mm.simulation.engine import pace, traffic
from fedlab_mm.simulation.loop import Loop
from fedlab_mm.simulation.state import read_tensors
from fedlab_mm.version import __version__

BASELINES = ("popularity", "itemknn", "ease")
CLICK_BASELINES = ("rate", "user rate", "logistic", "trees")


def load(
    name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any
) -> Any:
    """A dataset by name, or a folder of your own.

    "toy" is generated. Others are read from `root`, $FEDLAB_MM_DATA or the user's cache folder, and fetched into the
    latter where their publishers allow it. A folder holds `interactions.csv` and `items.csv` (see `data/folder.py`).

    Args:
        name: of a dataset (`available()["dataset"]`; some have parts, as in "amazon:All_Beauty"), or a folder's path.
        root: the dataset's folder, or the folder that holds it.
        seed: of generated data.
        options: the choices of `data.Preparation`: core, fewest, split, min_rating, held_out, missing, encoder, device,
            cache, progress.

    Returns:
        A `Dataset`, or a `ClickLog` for click prediction.

    Raises:
        FedlabError: an unknown name or option, files that are not there (the message says where to get them), bad
            content.

    >>> load("toy").n_items
    500
    """
    text = os.fspath(name)
    family, _, part = text.partition(":")
    is_path = "/" in text or os.sep in text or Path(text).is_dir()
    if is_path and text not in names("dataset") and family not in names("dataset"):
        return lookup("dataset", "folder").load(root=text, seed=seed, **options)
    if part and family in names("dataset"):
        member = lookup("dataset", family)
        if not hasattr(member, "of"):
            raise FedlabError(f"dataset '{family}' has no parts, so '{part}' is none of them")
        return member.of(part).load(root=root, seed=seed, **options)
    return lookup("dataset", text).load(root=root, seed=seed, **options)


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

    >>> toy = load("toy")
    >>> [record.round for record in rounds(Recipe(method="none", rounds=2), toy)]
    [1, 2]
    """
    data = _data_of(recipe, data)
    _check_cutoff(recipe, data)
    return _rounds(_engine_of(recipe, data, resume), resume)


def _engine_of(recipe: Recipe, data: Dataset | ClickLog, resume: Run | None) -> Engine:
    if resume is not None:
        _check_resume(recipe, data, resume)
    engine: Engine = engine_class(recipe, data)(recipe, data)
    if resume is not None:
        engine.load_state(dict(resume.last_state))
    return engine


def _rounds(engine: Engine, resume: Run | None) -> Iterator[RoundRecord]:
    recipe = engine.recipe
    waited, best = _waited(engine.goal, resume)
    while engine.round < recipe.rounds and not (recipe.patience and waited >= recipe.patience):
        record = engine.step()
        if record.round % recipe.evaluate_every == 0 or record.round == recipe.rounds:
            metrics = _metrics(engine, "valid")
            record = replace(record, metrics=metrics)
            value = metrics[engine.goal]
            waited, best = (0, value) if value > best else (waited + 1, best)
        yield record


def _metrics(engine: Any, split: str) -> dict[str, float]:
    """Of a split's targets: HR and NDCG of a ranking; AUC, LogLoss and GAUC of clicks."""
    recipe, data = engine.recipe, engine.data
    with pace(engine, f"evaluation on {split}"):
        if isinstance(data, ClickLog):
            predicted = engine.predict(split)
            return evaluate_clicks(predicted["logit"], predicted["click"], predicted["user"])
        return evaluate_blocks(engine.score_blocks(), data, split, recipe.k, recipe.ties)[0]


def untrained(recipe: Recipe, data: Dataset | ClickLog | None = None) -> Model:
    """The federation before its first round: what every client begins with.

    >>> toy = load("toy")
    >>> sorted(untrained(Recipe(method="fedmr"), toy).signals())
    ['id', 'image', 'text']
    """
    data = _data_of(recipe, data)
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
    data = _data_of(recipe, data)
    if cache is not None:
        return _kept(recipe, data, progress, resume, Path(cache))
    history: list[pd.DataFrame] = [] if resume is None else [resume.history]
    best_round, best_value, best_state = 0, -1.0, None
    code = recipe.code  # now, for a member may be changed while this trains
    _check_cutoff(recipe, data)
    engine = _engine_of(recipe, data, resume)
    goal = engine.goal
    if resume is not None:
        best_round, best_state = resume.best_round, resume.model.state() if resume.best_round else None
        if resume.best_round:
            best_value = resume.best_valid

    def finish() -> Run:
        last_state = engine.state()
        if best_state is not None:
            engine.load_state(best_state)
        test = _metrics(engine, "test")
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


def _kept(recipe: Recipe, data: Dataset | ClickLog, progress: bool | str, resume: Run | None, cache: Path) -> Run:
    """A run from the cache, or trained and put there; what an interruption leaves stands beside it until then."""
    kept = cache / _key(recipe, data)
    if kept.is_dir():
        return load_run(kept, data, device=recipe.device)
    kept = free_folder(kept)  # before the work is done, not after
    begun = kept.with_name(f"{kept.name}-begun")
    if resume is None and begun.is_dir():
        resume = load_run(begun, data, device=recipe.device)
    try:
        run = train(recipe, data, progress, resume)
    except Interrupted as stopped:
        if stopped.run is not None:
            stopped.run.save(begun)
        raise
    run.save(kept)
    shutil.rmtree(begun, ignore_errors=True)
    return run


def _key(recipe: Recipe, data: Dataset | ClickLog) -> str:
    """The name of a run in a cache: it changes with all that decides the run."""
    about = f"{recipe.to_json()} {data.fingerprint} {__version__} {recipe.code}"
    return f"{recipe.backbone}-{recipe.method}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def load_run(
    folder: str | os.PathLike[str],
    data: Dataset | ClickLog | None = None,
    root: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> Run:
    """Read what `Run.save` wrote; `train(recipe, data, resume=run)` goes on from it, bit for bit. (The shorter run's
    last round is validated also where `evaluate_every` would pass it over, and may then be the best.)

    Args:
        data: the dataset, loaded by the recipe's name (from `root`) if left out.
        device: where to put the model, wherever it was trained.

    Raises:
        FedlabError: a file is missing or damaged, or the data are not those of the run.
    """
    folder = Path(folder)
    for file in ("recipe.json", "run.json", "history.csv", "best.safetensors", "last.safetensors"):
        if not (folder / file).is_file():
            raise FedlabError(f"{folder} holds no saved run: {file} is missing")
    about: dict[str, Any] = {}
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        known_as, best_round, test = about["data"]["sha256"], about["best_round"], about["test"]
        recipe = Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8")).but(device=device)
        history = pd.read_csv(folder / "history.csv")
        best_state = read_tensors(folder / "best.safetensors")
        last_state = read_tensors(folder / "last.safetensors")
        _check_history(history, best_round, int(last_state["round"]), folder / "history.csv")
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        if (wrote := _writer(about)) != __version__:
            raise FedlabError(
                f"{folder} was written by fedlab_mm {wrote}, and this is {__version__}: {error}"
            ) from None
        if isinstance(error, FedlabError):
            raise
        what = f"run.json lacks {error}" if isinstance(error, KeyError) else error
        raise FedlabError(f"{folder} holds a damaged run: {what}") from None
    if data is None:
        try:
            data = load(recipe.dataset, root)
        except FedlabError as error:
            raise FedlabError(
                f"{folder}: its data cannot be loaded: {error}. Or load them, and pass them as data"
            ) from None
    if data.fingerprint != known_as:
        raise FedlabError(
            f"{folder} was trained on other data than this {data.name}: "
            f"sha256 {known_as[:12]}… there, {data.fingerprint[:12]}… here"
        )
    code = str(about.get("code", ""))
    if code != recipe.code:
        warnings.warn(
            f"{folder} was trained by other code (fedlab_mm {_writer(about)}): its figures are of then, and what is "
            "computed from its state now may differ",
            stacklevel=2,
        )
    engine: Engine = engine_class(recipe, data)(recipe, data)
    engine.load_state(best_state)
    return Run(recipe, data, history, test, best_round, engine, last_state, code)


def _writer(about: Mapping[str, Any]) -> str:
    """The version of the package that wrote a run, as its run.json tells."""
    told = about.get("versions") if isinstance(about, dict) else None
    return str(told.get("fedlab_mm", __version__)) if isinstance(told, dict) else __version__


def _check_history(history: pd.DataFrame, best_round: int, done: int, path: Path) -> None:
    """Does it tell of every round that was done, and of the validation of the best?"""
    if list(history) != ["round", "split", "metric", "value"]:
        raise FedlabError(f"{path}: its columns are not round, split, metric, value")
    told = set(history.loc[history["split"] == "train", "round"])
    judged = set(history.loc[history["split"] == "valid", "round"])
    if told != set(range(1, done + 1)) or (best_round and best_round not in judged):
        raise FedlabError(
            f"{path} is damaged: it does not tell of the {done} rounds that were done, the best {best_round}"
        )


def compare(
    recipes: Sequence[Recipe],
    seeds: Sequence[int] = range(3),
    data: Dataset | ClickLog | None = None,
    baselines: Sequence[str] | None = None,
    progress: bool = True,
    label: Callable[[Recipe], str | None] = lambda recipe: None,
    cache: str | Path | None = None,
) -> pd.DataFrame:
    """Train each recipe with each seed, beside simple baselines, on the same test targets: of a ranking HR and NDCG, of
    clicks AUC, LogLoss and GAUC (NaN where no user has several test showings).

    A run that diverges does not end the comparison: a warning names it, and its row has the other seeds, or none.

    Args:
        baselines: their names; "ease:200" sets the one number that a baseline takes (EASE's λ). If left
            out, popularity, itemknn and ease; for clicks rate, user rate, logistic and trees.
        label: a recipe's name in the table, where the one made of what differs between recipes is too long.
        cache: a folder that keeps finished runs, as for `train`.

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
    if len({r.dataset for r in recipes}) > 1 or len({(r.k, r.ties) for r in recipes}) > 1:
        raise FedlabError("compare needs recipes of one dataset, with one k and one rule for ties")
    world: Any = _data_of(recipes[0], data)
    clicks = isinstance(world, ClickLog)
    if baselines is None:
        baselines = CLICK_BASELINES if clicks else BASELINES
    rivals = {name: lookup("click baseline", name)() if clicks else _baseline(name) for name in baselines}
    labels = [label(recipe) or name for name, recipe in zip(_labels(recipes), recipes, strict=True)]
    for row in labels:
        if [*baselines, *labels].count(row) > 1:
            raise FedlabError(f"compare: two rows would be named '{row}'; give each recipe a label of its own")
    k, ties = recipes[0].k, recipes[0].ties
    rows: dict[str, list[dict[str, float]]] = {}
    users: list[pd.DataFrame] = []
    valid: dict[str, float] = {}

    def take(row: str, seed: int, blocks: Iterable[tuple[slice, torch.Tensor]]) -> None:
        metrics, of_users = evaluate_blocks(blocks, world, "test", k, ties)
        rows.setdefault(row, []).append(metrics)
        warm = world.warm_I[of_users["target"]]
        users.append(of_users.rename_axis("user").reset_index().assign(row=row, seed=seed, warm=warm))

    def take_clicks(row: str, seed: int, predicted: pd.DataFrame) -> None:
        logit, click = predicted["logit"], predicted["click"]
        rows.setdefault(row, []).append(evaluate_clicks(logit, click, predicted["user"]))
        logloss = np.logaddexp(0, np.where(click > 0, -logit, logit))
        users.append(predicted.assign(row=row, seed=seed, logloss=logloss))

    for name, baseline in rivals.items():
        if clicks:
            shown = world.interactions[world.interactions["split"] == "test"][["user", "click"]].reset_index(drop=True)
            take_clicks(name, 0, shown.assign(logit=baseline.predict(world, "test")))
            continue
        scores_UI = torch.as_tensor(baseline.scores(world))
        take(name, 0, [(slice(0, world.n_users), scores_UI)])
    for row, recipe in zip(labels, recipes, strict=True):
        best = []
        rows[row] = []
        for seed in seeds:
            try:
                run = train(recipe.but(seed=seed), world, f"{row}, seed {seed}" if progress else False, cache=cache)
            except DivergedError as error:
                warnings.warn(f"'{row}', seed {seed}: {error}", stacklevel=2)
                continue
            except Interrupted as stopped:
                finished = {name: results for name, results in rows.items() if results}
                raise Interrupted(stopped.run, _compared(finished, users, valid) if users else None) from None
            if clicks:
                with pace(run.model, "evaluation on test"):
                    take_clicks(row, seed, run.predictions())
            else:
                with pace(run.model, "evaluation on test"):
                    take(row, seed, run.model.score_blocks())
            best.append(run.best_valid)
        valid[row] = float(np.mean(best)) if best else np.nan
    if not users:
        raise AllDivergedError("compare: every run diverged; lower the learning rates (lr, shared_lr)")
    return _compared(rows, users, valid)


def _compared(
    rows: Mapping[str, list[dict[str, float]]], users: list[pd.DataFrame], valid: Mapping[str, float]
) -> pd.DataFrame:
    table: dict[tuple[str, str], list[float]] = {}
    for metric in next(results[0] for results in rows.values() if results):
        values = [np.array([result[metric] for result in results]) for results in rows.values()]
        table[metric, "mean"] = [float(v.mean()) if len(v) else np.nan for v in values]
        table[metric, "sd"] = [float(v.std(ddof=1)) if len(v) > 1 else np.nan for v in values]
    result = pd.DataFrame(table, index=list(rows))
    result.attrs = {"users": pd.concat(users, ignore_index=True), "valid": dict(valid)}
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
    metrics = ["auc", "logloss"] if "logit" in users else [str(c) for c in users if "@" in str(c)]
    if metric not in metrics:
        raise FedlabError(f"unknown metric '{metric}': there are: {', '.join(metrics)}")
    for row in (a, b):
        if row not in set(users["row"]):
            raise FedlabError(f"there is no row '{row}'; there are: {', '.join(table.index)}")
    if "logit" in users and targets != "all":
        raise FedlabError(f"targets='{targets}': showings are not told apart, take 'all'")
    if metric == "auc":
        return paired_auc(users[users["row"] == a], users[users["row"] == b])
    if targets not in ("all", "warm", "cold"):
        raise FedlabError(f"unknown targets '{targets}': there are: all, warm, cold")
    chosen = users if targets == "all" else users[users["warm"] == (targets == "warm")]
    means = chosen.groupby(["row", "user"])[metric].mean()
    return paired_test((means[a] - means[b]).to_numpy())


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
    data = _data_of(recipe, data)
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


def attack(
    kind: str,
    recipe: Recipe,
    data: Dataset | None = None,
    rounds: int = 5,
    secure: bool = False,
    shadows: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """What a server learns from the uploads of a recipe's first rounds.

    Args:
        kind: "items" (which items did a client interact with), "membership" (was this interaction there, by a
            likelihood ratio with shadow runs), "taste" (which kinds does it like; generated data only).
        recipe: with whatever defences it has; data: what on, loaded by the recipe's name if left out.
        rounds: how many rounds the server watches.
        secure: secure aggregation: the server sees each round's sum only, and what a method has each client show.
        shadows: how many federations the "membership" attack trains.

    Returns:
        A row for each way to attack, and a baseline where there is one: auc, tpr@1%fpr, each with a 95 % interval;
            users. An auc clearly below one half, its interval below 0.45, is warned of: it is no safety, for whoever
            turns the scores round reads 1 − auc.

    Raises:
        FedlabError: an unknown attack, rounds or shadows that are no whole number, fewer than one round or four
            shadows, "taste" without planted tastes, a click log, no user whom "membership" could ask about.

    >>> toy = load("toy")
    >>> float(attack("items", Recipe(method="none"), toy, rounds=2, progress=False).loc["uploads", "auc"]) > 0.99
    True
    """
    data = _data_of(recipe, data)
    if isinstance(data, ClickLog):
        raise FedlabError(f"attacks ask which items a client has; {data.name} holds showings and clicks")
    method = lookup("attack", kind)
    rounds = whole_number("rounds", rounds)
    shadows = whole_number("shadows", shadows, least=4) if kind == "membership" else shadows
    total = rounds * (shadows if kind == "membership" else 1)
    with tqdm(total=total, desc=f"attack {kind}", unit="round", disable=not progress, delay=1) as bar:

        def watch(world: Dataset, seed: int) -> Ledger:
            engine = Loop(recipe.but(engine="loop", seed=seed), world)
            ledger = Ledger.of(engine.method, world.n_users, secure)
            engine.observer = ledger.take
            for _ in range(rounds):
                record = engine.step()
                ledger.close_round(record.clients, engine.last_mixed)
                bar.update()
            return ledger

        table = method(Scene(data, watch, shadows, recipe.seed))
    for way, found in table[table["auc high"] < 0.45].iterrows():
        warnings.warn(
            f"attack '{kind}', '{way}': an AUC of {found['auc']:.3f} lies below one half, which is no safety: "
            f"the scores tell own from other upside down, and turned round reach {1 - found['auc']:.3f}",
            stacklevel=2,
        )
    return table


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
    recipe: Recipe, n_users: int, n_items: int, widths: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many numbers a recipe keeps and moves, counted on its real modules.

    Args:
        n_users, n_items: the size of the federation.
        widths: modality -> feature width (default: image and text, 512 each).

    Returns:
        client: what one client holds: what it is sent, features included, and its private parameters;
        private: the part of it that never leaves;
        server: the shared parameters, features not counted;
        download, upload: numbers per client and round, and the same in bytes; upload is the most, where every item is
        touched. Features that a client keeps for good are sent once: `download once`.
        fedmr: by the convention of FedMR's Table 5, every learnable parameter that a model on a client needs, with the
        embeddings of all users where the network has user embeddings (FedNCF, VBPR);
        fedvlr: by that of FedVLR's Table 3, the item tables that a client is sent and its private parameters; for a
        network with user embeddings, and without fusion, as FedMR counts.

    >>> count = count_parameters(Recipe(method="fedvlr"), n_users=204, n_items=560)
    >>> count["fedmr"], count["fedvlr"]
    (455620, 120132)
    >>> count_parameters(Recipe(method="none"), n_users=204, n_items=560)["fedmr"]
    35905
    """
    if recipe.method not in names("method") or recipe.backbone not in names("backbone"):
        raise FedlabError(
            f"'{recipe.label}' predicts clicks: count it with fedlab_mm.sequential.count_click_parameters(recipe, "
            "log.attributes)"
        )
    widths = {"image": 512, "text": 512} if widths is None else widths
    with torch.device("meta"):
        features = {m: torch.empty(n_items, width) for m, width in widths.items()}
        method: Method = lookup("method", recipe.method)(recipe, n_items, features)
        sent = method.broadcast()
    moved = traffic(method, sent)
    private = {n: p.numel() for n, p in method.client.named_parameters() if n in method.private}
    server = sum(p.numel() for p in method.shared.parameters())
    parts = method.parts
    held = {n: n_items if parts[n].by_group else v.numel() for n, v in sent.items()}
    once = sum(held[n] for n, part in parts.items() if not (part.moves or part.upload or part.by_group))
    of_users = method.user_embeddings()
    every_user = (n_users - 1) * sum(private[n] for n in of_users)
    fedmr = server - method.apart() + sum(private.values()) + every_user
    return {
        "client": sum(held.values()) + sum(private.values()),
        "private": sum(count for n, count in private.items() if n not in method.shown),
        "server": server,
        "download": moved.download // 4,
        "upload": moved.per_row * n_items + moved.whole,
        "download bytes": moved.download,
        "upload bytes": moved.upload(n_items),
        "download once": once,
        "fedmr": fedmr,
        "fedvlr": method.fedvlr_count(private, n_users, fedmr),
    }


def _data_of(recipe: Recipe, data: Any) -> Any:
    if data is None:
        data = load(recipe.dataset)
    elif (
        isinstance(data, Dataset | ClickLog) and data.name not in recipe.dataset and recipe.dataset in names("dataset")
    ):
        # Not an error: a lecture may swap the data. But the recipe is what is saved, and should not tell a tale.
        warnings.warn(f"the recipe says dataset='{recipe.dataset}', the data are '{data.name}'", stacklevel=3)
    kind, other = ("click ", "") if isinstance(data, ClickLog) else ("", "click ")
    for family in ("backbone", "method"):
        name = getattr(recipe, family)
        if name not in names(f"{kind}{family}") and name in names(f"{other}{family}"):
            what = "showings and clicks" if kind else "items to rank"
            raise FedlabError(
                f"{data.name} holds {what}, which {family} '{name}' is not for; there are: "
                f"{', '.join(names(f'{kind}{family}'))}"
            )
    return data


def engine_class(recipe: Recipe, data: Dataset | ClickLog) -> Any:
    """The engine for a kind of data: it ranks items, or predicts clicks."""
    return lookup("click engine" if isinstance(data, ClickLog) else "engine", recipe.engine)


def _check_cutoff(recipe: Recipe, data: Dataset | ClickLog) -> None:
    if isinstance(data, Dataset) and recipe.k > data.n_items:
        raise FedlabError(f"k={recipe.k}: {data.name} has only {data.n_items} items")


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


def _baseline(name: str) -> Any:
    family, _, number = name.partition(":")
    member = lookup("baseline", family)
    if not number:
        return member()
    try:
        return member(float(number) if "." in number else int(number))
    except (TypeError, ValueError) as error:
        if isinstance(error, FedlabError):
            raise
        raise FedlabError(f"baseline '{name}': '{number}' is not a number that {family} takes") from None


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
    ['fedmr', 'fedvlr', 'gfmfr', 'mlp', 'none', 'vbpr']
    """
    families = ["dataset", "operator", "backbone", "method", "loss", "aggregation", "engine", "baseline", "attack"]
    families += ["click backbone", "click method", "click baseline"]
    return {family: names(family) for family in families}
