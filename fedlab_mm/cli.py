"""The command `fedlab-mm`: train, compare, tune, data (describe, prepare, encode, fetch), demo, notebooks, execute,
figures.

Each part imports what it needs when it is called: the help should not wait for torch.
"""

import argparse
import base64
import dataclasses
import importlib.util
import os
import shlex
import shutil
import signal
import sys
import types
import typing
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.files import free_file, put, shipped
from fedlab_mm.interrupts import Interrupted
from fedlab_mm.registry import lookup, names
from fedlab_mm.version import __version__, versions

if typing.TYPE_CHECKING:
    import pandas as pd

    from fedlab_mm.recipe import Recipe

QUICKSTART = "00_quickstart.ipynb"
CELL_SECONDS = 1800
VIEW = "application/vnd.jupyter.widget-view+json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a `FedlabError` becomes one line on standard error and exit code 2."""
    _print_anything()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    warnings.showwarning = lambda message, *_, **__: say(f"note: {message}", to=sys.stderr)
    before = _as_ctrl_c(signal.SIGTERM)
    try:
        options = _parser(arguments).parse_args(arguments, argparse.Namespace(arguments=arguments))
        for path in options.use:
            _use(path)
        code = options.run(options)
        sys.stdout.flush()
        return code
    except FedlabError as error:
        return _failed(str(error), 2)
    except BrokenPipeError:  # whoever read this, `head` or a pager, has seen enough
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or Python would complain when it ends
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _failed(told: str, code: int) -> int:
    say("fedlab-mm: " + " ".join(told.splitlines()), to=sys.stderr)
    return code


def _print_anything() -> None:
    """Tables hold ±, – and Greek, and paths anything: what a console cannot show it prints as a question mark, and does
    not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def say(text: object = "", to: typing.TextIO | None = None) -> None:
    r"""Print, without what a terminal takes as a command: titles, names and messages may come from anybody's files.

    >>> say("a title \x1b[2J that clears the screen")
    a title \x1b[2J that clears the screen
    """
    stream = sys.stdout if to is None else to
    shown = "".join(c if c in "\n\t" or not _commands(c) else f"\\x{ord(c):02x}" for c in str(text))
    try:
        print(shown, file=stream)
    except UnicodeEncodeError:  # a stream that cannot be told to replace
        print(shown.encode("ascii", "replace").decode(), file=stream)


def _commands(character: str) -> bool:
    """Control characters, and those that turn the direction of writing; half characters, which nothing can show."""
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _TURNING


_TURNING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


def _as_ctrl_c(number: int) -> typing.Any:
    """Let a polite end from outside keep what Ctrl-C keeps; gives what stood there, None where it cannot be changed."""
    try:
        return signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    except ValueError:  # not in the main thread
        return None


def _go_on(options: argparse.Namespace, **changes: str) -> str:
    """The command that was given, with some options set anew."""
    kept = list(options.arguments)
    for name, value in changes.items():
        option = f"--{name}"
        while option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
        kept = [a for a in kept if not a.startswith(f"{option}=")] + [option, value]
    return "fedlab-mm " + shlex.join(kept)


def _use(path: Path) -> None:
    """Run a Python file of the user's own, so that what it registers is known."""
    name = f"used by fedlab-mm: {path.stem}"  # hides no other module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FedlabError(f"--use {path}: there is no such Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FedlabError as error:
        raise FedlabError(f"--use {path}: {error}") from None
    except Exception as error:
        raise FedlabError(f"--use {path}: {type(error).__name__}: {error}") from error


def _train(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.data.load import load
    from fedlab_mm.experiments.run import free_folder, load_run
    from fedlab_mm.experiments.train import train
    from fedlab_mm.recipe import Recipe

    recipe = Recipe(**_fields_given(options))
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
            return _failed(f"{told}; to go on: {_go_on(options, resume=str(kept))}", 130)
        return _failed("interrupted, and nothing is kept: with --out the rounds done would be", 130)
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
    given = _fields_given(options)
    methods, backbones = given.pop("method", ["none", "fedvlr"]), given.pop("backbone", [Recipe.backbone])
    recipes = [Recipe(backbone=b, method=m) for b in backbones for m in methods]
    for_none = {name: v for name, v in given.items() if not any(name in r.settings for r in recipes)}
    if for_none:
        recipes[0].but(**for_none)  # which complains of it
    recipes = [r.but(**{name: v for name, v in given.items() if name in r.settings}) for r in recipes]
    grids = [_grid(g) for g in options.grid or []]
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
        )
    except Interrupted as stopped:
        if csv is None or stopped.table is None:
            hint = "the same command goes on" if cache else "with --csv or --cache the runs would be"
            return _failed(f"interrupted; {hint}", 130)
        _write_csv(stopped.table, csv)
        return _failed(f"interrupted; the rows so far are in {csv}; to go on: {_go_on(options)}", 130)
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
            rows = [{n: str(getattr(r, n)) for n in _searched(grids)} for r in recipes]
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
    recipe = Recipe(**_fields_given(options))
    grids = [_grid(g) for g in options.grid]
    data = load(recipe.dataset, options.root)
    seeds = None if options.search_seeds == 1 else range(options.search_seeds)
    try:
        best = tune(recipe, grids, data, options.folder, seeds=seeds)
    except KeyboardInterrupt:
        told = f"interrupted; the settings tried so far are in {options.folder}"
        return _failed(f"{told}; to go on: {_go_on(options)}", 130)
    table = pd.read_csv(Path(options.folder) / "tuning.csv")
    say(table.to_string(index=False))
    say("best: " + ", ".join(f"{n}={getattr(best, n)}" for n in _searched(grids)))
    say(f"table and best run in {options.folder}")
    return 0


def _searched(grids: Sequence[dict[str, list[typing.Any]]]) -> list[str]:
    return sorted({name for grid in grids for name in grid})


def _grid(fields: Sequence[str]) -> dict[str, list[typing.Any]]:
    """Fields written as name=value,value; a value is read as its field is: a number, a name, or none."""
    from fedlab_mm.recipe import owners_of_settings

    hints = {n: typing.get_type_hints(owners[0][0])[n] for n, owners in owners_of_settings().items()}
    grid = {}
    for text in fields:
        name, _, values = text.partition("=")
        if name in hints and typing.get_origin(hints[name]) is tuple:
            raise FedlabError(f"--grid {text}: {name} can be searched from Python only, with fedlab_mm.tune")
        if name not in hints or not values:
            raise FedlabError(f"--grid {text}: write a recipe's field and its values, as in lr=0.01,0.1")
        hint = hints[name]
        kind = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
        try:
            grid[name] = [None if v == "none" and kind is not hint else kind(v) for v in values.split(",")]
        except ValueError:
            raise FedlabError(f"--grid {text}: {name} takes values of type {kind.__name__}") from None
    return grid


def _loaded(options: argparse.Namespace) -> typing.Any:
    from fedlab_mm.data import Preparation
    from fedlab_mm.data.load import load

    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Preparation) if hasattr(options, f.name)}
    return load(options.name, options.root, **given)


def _describe(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.audit import audit
    from fedlab_mm.records import Dataset

    data = _loaded(options)
    with pd.option_context("display.width", 200, "display.max_rows", None):
        say(data.describe().to_string())
        if isinstance(data, Dataset):
            k = min(options.k, data.n_items)
            say(f"\nwhat the split gives away (test)\n\n{audit(data, k).round(3).to_string()}")
            if len(data.problems):
                say(f"\npictures that cannot be read\n\n{data.problems.to_string(index=False)}")
    say()
    for what, text in data.about.items():
        if text:
            say(f"{what:<15} {text}")
    say(f"{'sha256':<15} {data.fingerprint}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from fedlab_mm.data.folder import free_place, save_dataset
    from fedlab_mm.records import Dataset

    free_place(options.out)  # before the work is done, not after
    data = _loaded(options)
    if not isinstance(data, Dataset):
        raise FedlabError(f"{options.name} is a click log, which is read as it is: there is nothing to prepare")
    folder = save_dataset(data, options.out)
    say(data.describe().to_string())
    say(f"\nwritten to {folder}: give it to --dataset, or to fedlab_mm.load")
    return 0


def _encode(options: argparse.Namespace) -> int:
    from fedlab_mm.encoding import cache_folder

    data = _loaded(options)
    told = {w: t for w, t in data.about.items() if w == "encoder" or w.endswith(" encoding")}
    if not any(w.endswith(" encoding") for w in told):
        say(f"{options.name} comes with its features: there is nothing to encode")
        return 0
    for what, text in told.items():
        say(f"{what:<15} {text}")
    say(f"{'kept in':<15} {getattr(options, 'cache', None) or cache_folder()}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from fedlab_mm.data.fetch import fetch_pictures

    family, _, part = options.name.partition(":")
    source = lookup("dataset", family)
    source = source.of(part) if part and hasattr(source, "of") else source
    if not hasattr(source, "find"):
        raise FedlabError(f"dataset '{options.name}' has nothing to fetch")
    folder = source.find(options.root)
    say(f"{options.name} is in {folder}")
    say(f"licence         {source.licence}\nplease cite     {source.citation}")
    if options.pictures:
        if not hasattr(source, "pictures"):
            raise FedlabError(f"dataset '{options.name}' names no addresses of pictures")
        problems = fetch_pictures(source.pictures(folder), folder / "images")
        say(f"pictures are in {folder / 'images'}; {len(problems)} could not be had")
        for item, problem in list(problems.items())[:20]:
            say(f"  {item}: {problem}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    """The quickstart, executed."""
    return _run_notebook(shipped("notebooks") / QUICKSTART, Path(options.out), Path())


def _notebooks(options: argparse.Namespace) -> int:
    """Copy the notebooks out; a file of the user's that has changed is left alone."""
    folder = Path(options.folder)
    found = sorted((f for f in shipped("notebooks").iterdir() if f.name.endswith(".ipynb")), key=lambda f: f.name)
    others = [f.name for f in found if (folder / f.name).exists() and (folder / f.name).read_bytes() != f.read_bytes()]
    if others:
        raise FedlabError(f"{folder} has a {others[0]} that differs: choose another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in found:
        put(folder / notebook.name, notebook.read_bytes())
    say(f"{len(found)} notebooks are in {folder}; to open them: jupyter lab {folder}")
    if importlib.util.find_spec("jupyterlab") is None:
        say('JupyterLab is not installed: pip install "fedlab_mm[all]"')
    return 0


def _execute(options: argparse.Namespace) -> int:
    source = Path(options.notebook)
    if not source.is_file():
        raise FedlabError(f"{source}: no such notebook")
    return _run_notebook(source, Path(options.out), source.parent)


def _run_notebook(source: Traversable, out: Path, where: Path) -> int:
    """Execute a notebook in a folder, print its tables (cells tagged "table"), and keep the executed copy and its
    pictures."""
    import nbformat
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    try:
        notebook = nbformat.reads(source.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:
        raise FedlabError(f"{source}: not a notebook ({error})") from None
    free_file(out / source.name)  # before the work is done, not after
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    warnings.filterwarnings("ignore", message=".*Proactor event loop")  # of pyzmq on Windows, which works all the same
    begun = 0

    def begins(cell: typing.Any, **_: typing.Any) -> None:
        nonlocal begun
        begun += cell.cell_type == "code"

    failed: BaseException | None = None
    with tqdm(total=len(code), desc=source.name, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(where)}},
            on_cell_start=begins,
            on_cell_complete=lambda cell, **_: bar.update() if cell.cell_type == "code" else None,
        )
        try:
            client.execute()
        except NoSuchKernel:
            raise FedlabError(f"{source}: there is no kernel 'python3': pip install ipykernel") from None
        except (CellExecutionError, CellTimeoutError, DeadKernelError, KeyboardInterrupt, AssertionError) as error:
            failed = error  # an AssertionError is nbclient's, of a kernel that went while it cleaned up
    pictures = []
    tables = []
    for n, cell in enumerate(code):
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                name = next((t.removeprefix("picture:") for t in _tags(cell) if t.startswith("picture:")), f"cell{n}")
                pictures.append(out / f"{name}.png")
                put(pictures[-1], base64.b64decode(png))
            elif "table" in _tags(cell) and "data" in output:
                tables.append(output["data"]["text/plain"])
        without_views(cell.get("outputs", []))
    notebook.metadata.pop("widgets", None)  # their state, of use to the kernel that has just gone
    put(out / source.name, nbformat.writes(notebook) + "\n")
    for table in tables:
        say(f"\n{table}")
    if failed is not None:
        where_to = f"in code cell {begun} of {len(code)}; executed so far: {out / source.name}"
        if isinstance(failed, KeyboardInterrupt):
            return _failed(f"{source}: interrupted {where_to}", 130)
        raise FedlabError(f"{source}: {_why(failed)} {where_to}")
    say(f"\nexecuted notebook: {out / source.name}")
    for picture in pictures:
        say(f"picture:           {picture}")
    return 0


def _why(failed: BaseException) -> str:
    if isinstance(failed, TimeoutError):
        return f"a cell takes more than {CELL_SECONDS / 60:.0f} minutes,"
    if hasattr(failed, "ename"):
        return f"{failed.ename}: {failed.evalue}"  # type: ignore[attr-defined]
    return "the kernel died"


def without_views(outputs: list[typing.Any]) -> None:
    """Leave the picture alone where a stored output holds both: a widget's view means nothing without its kernel."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data.pop(VIEW, None)


def _figures(options: argparse.Namespace) -> int:
    """Make figures, draw them anew, or say which are stale."""
    import pandas as pd

    from fedlab_mm import figures

    chosen = options.names or names("figure")
    folder = Path(options.out)
    for name in chosen:
        lookup("figure", name)  # an unknown name is told before the first is made
    if options.check:
        states = {name: figures.state(name, folder) for name in chosen}
        say(pd.Series(states, name="state").rename_axis("figure").to_string())
        return 0 if set(states.values()) == {"fresh"} else 1
    free_file(folder / "figure")  # before the work is done, not after
    if options.cache:
        free_file(Path(options.cache) / "run")
    for name in chosen:
        if options.draw:
            paths = figures.draw(name, folder)
        else:
            try:
                paths = figures.make(name, folder, options.root, options.cache)
            except KeyboardInterrupt:
                hint = "the same command goes on" if options.cache else "with --cache FOLDER the runs would be kept"
                return _failed(f"{name}: interrupted; {hint}", 130)
            except FedlabError as error:
                if options.names:
                    raise
                say(f"{name}: left out: {error}", to=sys.stderr)
                continue
        say(f"{name}: {', '.join(str(path) for path in paths)}")
    return 0


def _tags(cell: typing.Any) -> list[str]:
    return cell.metadata.get("tags", [])


def _write_csv(table: "pd.DataFrame", path: Path) -> None:
    flat = table.set_axis([" ".join(column) for column in table.columns], axis=1)
    put(path, flat.to_csv(index_label="recipe", lineterminator="\n"))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser. Of the commands, only one that is asked for gets its options: they follow from what is registered."""
    parser = argparse.ArgumentParser(
        "fedlab-mm", description="Federated multimodal recommendation: train, compare, look at data."
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument(
        "--use", type=Path, action="append", default=[], metavar="FILE.py", help="run a file of yours that registers"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (text, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in arguments:
            add_options(command)
    return parser


class _Version(argparse.Action):
    """`--version`: ours, and those of what a result depends on, for a report."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: typing.Any):
        super().__init__(option_strings, dest, nargs=0, help="this version, and those of what results depend on")

    def __call__(self, parser: argparse.ArgumentParser, *_: typing.Any) -> None:
        known = versions()
        known.pop("fedlab_mm")
        say(f"fedlab-mm {__version__} ({', '.join(f'{p} {v}' for p, v in known.items())})")
        parser.exit()


def _train_options(train: argparse.ArgumentParser) -> None:
    train.add_argument("--out", help="folder to save the run in")
    train.add_argument("--resume", help="folder of a saved run to go on from")
    train.set_defaults(run=_train)
    _add_recipe(train, several=())


def _compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    compare.add_argument(
        "--baselines",
        nargs="*",
        help="simple rivals beside; one that takes a number: ease:200 "
        f"[{'; for clicks '.join(', '.join(lookup('task', name).rivals) for name in ('ranking', 'clicks'))}]",
    )
    compare.add_argument("--csv", help="file to write the table to")
    compare.add_argument("--folder", help="keep the searches here, to go on with them later")
    compare.add_argument("--cache", help="keep the runs here, and take from here those of this recipe, data and code")
    _add_grid(compare, "tune each recipe first, all with the same grid")
    compare.set_defaults(run=_compare)
    _add_recipe(compare, several=("backbone", "method"), leave_out=("seed",))


def _tune_options(tune: argparse.ArgumentParser) -> None:
    tune.add_argument("--folder", required=True, help="where the table and the best run go, and are read back from")
    _add_grid(tune, "all combinations are tried", required=True)
    tune.set_defaults(run=_tune)
    _add_recipe(tune, several=())


def _data_options(data: argparse.ArgumentParser) -> None:
    tasks = data.add_subparsers(required=True, metavar="task")
    describe = tasks.add_parser("describe", help="what is in it, what was left out, and what its split gives away")
    describe.add_argument("--k", type=int, default=50, help="cut-off of the trivial rules [50]")
    describe.set_defaults(run=_describe)
    prepare = tasks.add_parser("prepare", help="write it as a folder, split and encoded, that --dataset takes")
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.set_defaults(run=_prepare)
    encode = tasks.add_parser("encode", help="encode its pictures and texts into the cache")
    encode.set_defaults(run=_encode)
    for task in (describe, prepare, encode):
        _add_dataset(task)
        _add_preparation(task)
    fetch = tasks.add_parser("fetch", help="bring its files, where the publisher lets anyone")
    _add_dataset(fetch)
    fetch.add_argument("--pictures", action="store_true", help="also the items' pictures, where addresses are known")
    fetch.set_defaults(run=_fetch)


def _demo_options(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--out", default="fedlab-mm-demo", help="folder for the notebook and its pictures [%(default)s]")
    demo.set_defaults(run=_demo)


def _notebooks_options(notebooks: argparse.ArgumentParser) -> None:
    notebooks.add_argument("folder", help="where to; it is made")
    notebooks.set_defaults(run=_notebooks)


def _execute_options(execute: argparse.ArgumentParser) -> None:
    execute.add_argument("notebook")
    execute.add_argument("--out", default="out", help="folder for the executed notebook and its pictures")
    execute.set_defaults(run=_execute)


def _figures_options(figure: argparse.ArgumentParser) -> None:
    figure.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(names('figure'))}")
    figure.add_argument("--root", help="the folder that holds the datasets")
    figure.add_argument("--out", default="figures", help="folder of the figures (figures)")
    figure.add_argument("--cache", help="keep runs here, so that an interrupted figure goes on")
    how = figure.add_mutually_exclusive_group()
    how.add_argument("--draw", action="store_true", help="draw them anew from their tables, measuring nothing")
    how.add_argument("--check", action="store_true", help="say which are fresh; exit 1 if any is not")
    figure.set_defaults(run=_figures)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("run the quickstart notebook; print its tables, keep its pictures", _demo_options),
    "notebooks": ("copy all notebooks into a folder of yours", _notebooks_options),
    "train": ("train one recipe and report it at its best validation round", _train_options),
    "compare": ("train several recipes over seeds, beside simple baselines", _compare_options),
    "tune": ("search for the settings of one recipe that validate best", _tune_options),
    "data": ("describe, prepare, encode or fetch a dataset", _data_options),
    "execute": ("execute a notebook; keep it, its tables and its pictures", _execute_options),
    "figures": ("make the papers' figures and tables again, as PNG, PDF, CSV and JSON", _figures_options),
}


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=f"a folder of your own, or one of: {', '.join(names('dataset'))}")
    parser.add_argument("--root", help="the dataset's folder, or the one that holds it")


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    """An option for every choice of a Preparation."""
    from fedlab_mm.data import Preparation

    group = parser.add_argument_group(
        "preparation", "see help(fedlab_mm.data.Preparation); the dataset's own if left out"
    )
    kinds = {"core": int, "fewest": int, "held_out": float, "min_rating": float}
    for field in dataclasses.fields(Preparation):
        if field.name != "progress":
            group.add_argument(
                f"--{field.name.replace('_', '-')}", type=kinds.get(field.name, str), default=argparse.SUPPRESS
            )


def _add_grid(parser: argparse.ArgumentParser, text: str, required: bool = False) -> None:
    parser.add_argument(
        "--grid",
        action="append",
        nargs="+",
        required=required,
        metavar="FIELD=VALUE,VALUE",
        help=f"a recipe's fields with the values to search, e.g. lr=0.01,0.1 optimizer=adam; {text}; may be repeated",
    )
    parser.add_argument("--search-seeds", type=int, default=1, help="seeds to judge a setting by (default: 1)")


def _add_recipe(parser: argparse.ArgumentParser, several: Sequence[str], leave_out: Sequence[str] = ()) -> None:
    """An option for every setting of a recipe, with what its class says of it, so that the two cannot drift apart."""
    from fedlab_mm.recipe import owners_of_settings
    from fedlab_mm.settings import family_of, told_of

    parser.add_argument("--root", help="the dataset's folder, or the one that holds it")
    groups: dict[str, typing.Any] = {}
    for name, owners in owners_of_settings().items():
        if name in leave_out:
            continue
        readers = ", ".join(dict.fromkeys(reader for _, reader in owners))
        group = groups.setdefault(readers, None) or parser.add_argument_group(readers, "defaults in brackets")
        groups[readers] = group
        owner = owners[0][0]
        field = next(f for f in dataclasses.fields(owner) if f.name == name)
        hint = typing.get_type_hints(owner)[name]
        if isinstance(hint, types.UnionType):
            hint = typing.get_args(hint)[0]
        many = name in several or typing.get_origin(hint) is tuple
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        family = family_of(field) or {"operators": "operator"}.get(name, name)
        known = list(dict.fromkeys([*names(family), *names(f"click {family}")]))
        told = told_of(owner).get(name, "").rstrip(".").replace("%", "%%")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=str if typing.get_origin(hint) is tuple else hint,
            nargs="+" if many else None,
            default=argparse.SUPPRESS,
            help="; ".join([told, *([f"there are {', '.join(known)}"] if known else [])]) + f" [{default}]",
        )


def _fields_given(options: argparse.Namespace) -> dict[str, typing.Any]:
    from fedlab_mm.recipe import owners_of_settings

    return {name: getattr(options, name) for name in owners_of_settings() if hasattr(options, name)}


if __name__ == "__main__":
    sys.exit(main())
