"""train, compare, tune."""

import argparse
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path

from fedlab_mm.cli.console import failed, say
from fedlab_mm.cli.options import add_grid, add_recipe, fields_given, go_on, read_grid, searched
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.files import free_file, put
from fedlab_mm.interrupts import Interrupted
from fedlab_mm.registry import lookup

if typing.TYPE_CHECKING:
    import pandas as pd

    from fedlab_mm.recipe import Recipe


def _train(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.data.load import load
    from fedlab_mm.experiments.run import free_folder, load_run
    from fedlab_mm.experiments.train import train
    from fedlab_mm.recipe import Recipe

    recipe = Recipe(**fields_given(options))
    if options.out:
        free_folder(options.out)  # before the work is done, not after
    data = load(recipe.dataset, options.root)
    resume = load_run(options.resume, data) if options.resume else None
    try:
        run = train(recipe, data, resume=resume)
    except DivergedError as error:
        if options.out and error.run is not None:
            say(f"the run up to round {error.round - 1} is in {error.run.save(options.out)}")
        raise
    except Interrupted as stopped:
        if options.out and stopped.run is not None:
            kept = stopped.run.save(options.out)
            told = f"interrupted after round {stopped.run.rounds_done}; the run so far is in {kept}"
            return failed(f"{told}; to go on: {go_on(options, resume=str(kept))}", 130)
        return failed("interrupted, and nothing is kept: with --out the rounds done would be", 130)
    saved = run.save(options.out) if options.out else None
    say(f"test at round {run.best_round}, the best on validation:")
    say(pd.Series(dict(run.test)).round(4).to_string())
    if saved:
        say(f"saved in {saved}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.data.load import load
    from fedlab_mm.experiments.compare import compare, show
    from fedlab_mm.experiments.run import free_folder
    from fedlab_mm.experiments.tune import tune
    from fedlab_mm.recipe import Recipe
    from fedlab_mm.tasks import task_of

    for name in ("seeds", "search_seeds"):
        if getattr(options, name) < 1:
            raise FedlabError(f"{name}={getattr(options, name)}: must be at least 1")
    given = fields_given(options)
    methods, backbones = given.pop("method", ["none", "fedvlr"]), given.pop("backbone", [Recipe.backbone])
    recipes = [Recipe(backbone=b, method=m) for b in backbones for m in methods]
    for_none = {name: v for name, v in given.items() if not any(name in r.settings for r in recipes)}
    if for_none:
        recipes[0].but(**for_none)  # which complains of it
    recipes = [r.but(**{name: v for name, v in given.items() if name in r.settings}) for r in recipes]
    grids = [read_grid(g) for g in options.grid or []]
    for name in {name for grid in grids for name in grid} & {"backbone", "method"}:
        raise FedlabError(f"--grid {name}: every {name} is a row of its own; list them after --{name}")
    csv = free_file(options.csv) if options.csv else None
    beside = csv.with_name(f".{csv.name}.runs") if csv else None  # until the table is written
    cache = Path(options.cache) if options.cache else beside
    if cache:
        free_folder(cache / "run")  # before the work is done, not after
    data = load(recipes[0].dataset, options.root)
    if grids:
        places = [options.folder and Path(options.folder) / f"{r.backbone}-{r.method}" for r in recipes]
        tried = range(options.search_seeds)
        for n, (r, place) in enumerate(zip(recipes, places, strict=True)):
            own = [{name: values for name, values in grid.items() if name in r.settings} for grid in grids]
            if own := [grid for grid in own if grid]:  # what a method does not read is not searched for it
                recipes[n] = tune(r, own, data, place, seeds=tried)
    try:
        table = compare(
            recipes,
            range(options.seeds),
            data,
            options.baselines,
            label=lambda r: r.label if grids else None,
            cache=cache,
            controls=options.controls,
        )
    except Interrupted as stopped:
        if csv is None or stopped.table is None:
            hint = "the same command goes on" if cache else "with --csv or --cache the runs would be"
            return failed(f"interrupted; {hint}", 130)
        _write_csv(stopped.table, csv)
        return failed(f"interrupted; the rows so far are in {csv}; to go on: {go_on(options)}", 130)
    if csv is not None:
        _write_csv(table, csv)
        if beside is not None and beside == cache:
            shutil.rmtree(beside, ignore_errors=True)
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    targets = task_of(data).told_targets(data)
    say(f"\n{data.name}: {targets}; mean ± sd over {seeds}\n")
    with pd.option_context("display.width", 200):
        say(show(table).to_string())
        if grids:
            rows = [{n: str(getattr(r, n)) for n in searched(grids)} for r in recipes]
            chosen = pd.DataFrame(rows, [r.label for r in recipes])
            valid = [round(v, 4) for v in chosen.index.map(table.attrs["valid"])]
            say(f"\nchosen on validation, and the metric there\n\n{chosen.assign(valid=valid).to_string()}")
        differences = _against_none(recipes, table)
        if len(differences):
            say(f"\nagainst none, user by user\n\n{differences.to_string()}")
    if csv is not None:
        say(f"\nwritten to {options.csv}")
    return 0


def _against_none(recipes: "Sequence[Recipe]", table: "pd.DataFrame") -> "pd.DataFrame":
    """What a method gains each backbone over `none`, with interval and p-value, where both were compared."""
    import pandas as pd

    from fedlab_mm.experiments.compare import paired

    rows = {}
    task = lookup("task", table.attrs["task"])()
    for recipe in recipes:
        base = recipe.but(method="none").label
        if recipe.method != "none" and {recipe.label, base} <= set(table.index):
            row: dict[tuple[str, str], str | float] = {}
            for metric, targets in task.tests(recipe):
                test = paired(table, recipe.label, base, metric, targets)
                row[f"{metric} {targets}", "difference"] = round(test["difference"], 3)
                row[f"{metric} {targets}", "95 %"] = f"{test['low']:+.3f} {test['high']:+.3f}"
                row[f"{metric} {targets}", "p"] = round(test["p"], 4)
            rows[recipe.label] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _tune(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.data.load import load
    from fedlab_mm.experiments.tune import tune
    from fedlab_mm.recipe import Recipe

    if options.search_seeds < 1:
        raise FedlabError(f"search_seeds={options.search_seeds}: must be at least 1")
    recipe = Recipe(**fields_given(options))
    grids = [read_grid(g) for g in options.grid]
    data = load(recipe.dataset, options.root)
    seeds = None if options.search_seeds == 1 else range(options.search_seeds)
    try:
        best = tune(recipe, grids, data, options.folder, seeds=seeds)
    except KeyboardInterrupt:
        told = f"interrupted; the settings tried so far are in {options.folder}"
        return failed(f"{told}; to go on: {go_on(options)}", 130)
    table = pd.read_csv(Path(options.folder) / "tuning.csv")
    say(table.to_string(index=False))
    say("best: " + ", ".join(f"{n}={getattr(best, n)}" for n in searched(grids)))
    say(f"table and best run in {options.folder}")
    return 0


def _write_csv(table: "pd.DataFrame", path: Path) -> None:
    flat = table.set_axis([" ".join(column) for column in table.columns], axis=1)
    put(path, flat.to_csv(index_label="recipe", lineterminator="\n"))


def train_options(train: argparse.ArgumentParser) -> None:
    train.add_argument("--out", help="folder to save the run in")
    train.add_argument("--resume", help="folder of a saved run to go on from")
    train.set_defaults(run=_train)
    add_recipe(train, several=())


def compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    compare.add_argument(
        "--baselines",
        nargs="*",
        help="simple rivals beside; one that takes a number: ease:200 "
        f"[{'; for clicks '.join(', '.join(lookup('task', name).rivals) for name in ('ranking', 'clicks'))}]",
    )
    compare.add_argument(
        "--controls",
        nargs="*",
        default=[],
        help="beside each method that fuses: shuffled or noise for features, none for no content",
    )
    compare.add_argument("--csv", help="file to write the table to")
    compare.add_argument("--folder", help="keep the searches here, to go on with them later")
    compare.add_argument("--cache", help="keep the runs here, and take from here those of this recipe, data and code")
    add_grid(compare, "tune each recipe first, all with the same grid")
    compare.set_defaults(run=_compare)
    add_recipe(compare, several=("backbone", "method"), leave_out=("seed",))


def tune_options(tune: argparse.ArgumentParser) -> None:
    tune.add_argument("--folder", required=True, help="where the table and the best run go, and are read back from")
    add_grid(tune, "all combinations are tried", required=True)
    tune.set_defaults(run=_tune)
    add_recipe(tune, several=())
