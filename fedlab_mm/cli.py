"""The command `fedlab-mm`: train, compare, data, execute."""

import argparse
import base64
import dataclasses
import os
import sys
import tempfile
import types
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from fedlab_mm import api
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.records import Recipe, free_folder
from fedlab_mm.registry import names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a `FedlabError` becomes one line on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    try:
        return options.run(options)
    except FedlabError as error:
        print(f"fedlab-mm: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fedlab-mm: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fedlab-mm: interrupted", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    recipe = Recipe(**_fields_given(options))
    if options.out:
        free_folder(options.out)  # before the work is done, not after
    data = api.load(recipe.dataset, options.root)
    resume = api.load_run(options.resume, data) if options.resume else None
    try:
        run = api.train(recipe, data, resume=resume)
    except DivergedError as error:
        if options.out and error.run is not None:
            print(f"the run up to round {error.round - 1} is in {error.run.save(options.out)}")
        raise
    print(f"test at round {run.best_round}, the best on validation:")
    print(pd.Series(dict(run.test)).round(4).to_string())
    if options.out:
        print(f"saved in {run.save(options.out)}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    if options.seeds < 1:
        raise FedlabError(f"seeds={options.seeds}: must be at least 1")
    given = _fields_given(options)
    methods, backbones = given.pop("method", ["none", "fedvlr"]), given.pop("backbone", ["fcf"])
    recipes = [Recipe(backbone=b, method=m, **given) for b in backbones for m in methods]
    if options.csv:
        Path(options.csv).parent.mkdir(parents=True, exist_ok=True)
    data = api.load(recipes[0].dataset, options.root)
    table = api.compare(recipes, range(options.seeds), data)
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    cold = int((~data.warm_I[data.target_U("test")]).sum())
    print(f"\n{data.name}: {data.n_users} test targets, {cold} of them cold; mean ± sd over {seeds}\n")
    with pd.option_context("display.width", 200):
        print(api.show(table).to_string())
    if options.csv:
        _write_csv(table, Path(options.csv))
        print(f"\nwritten to {options.csv}")
    return 0


def _data(options: argparse.Namespace) -> int:
    data = api.load(options.name, options.root)
    print(data.describe().to_string())
    print(f"sha256  {data.fingerprint}")
    return 0


def _execute(options: argparse.Namespace) -> int:
    """Execute a notebook, print its tables (cells tagged "table"), and keep the executed copy and its pictures."""
    source, out = Path(options.notebook), Path(options.out)
    if not source.is_file():
        raise FedlabError(f"{source}: no such notebook")
    try:
        notebook = nbformat.read(source, as_version=4)
    except Exception as error:
        raise FedlabError(f"{source}: not a notebook ({error})") from None
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with tqdm(total=len(code), desc=source.name, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(source.parent)}},
            on_cell_complete=lambda cell, **_: bar.update() if cell.cell_type == "code" else None,
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise FedlabError(f"{source}: {error.ename}: {error.evalue}") from None
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for n, cell in enumerate(code):
        for output in cell.outputs:
            png = output.get("data", {}).get("image/png")
            if png:
                name = next((t.removeprefix("picture:") for t in _tags(cell) if t.startswith("picture:")), f"cell{n}")
                pictures.append(out / f"{name}.png")
                pictures[-1].write_bytes(base64.b64decode(png))
            elif "table" in _tags(cell) and "data" in output:
                print(f"\n{output['data']['text/plain']}")
    nbformat.write(notebook, out / source.name)
    print(f"\nexecuted notebook: {out / source.name}")
    for picture in pictures:
        print(f"picture:           {picture}")
    return 0


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".csv")
    with os.fdopen(handle, "w") as file:
        table.set_axis([" ".join(column) for column in table.columns], axis=1).to_csv(file, index_label="recipe")
    os.replace(partial, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "fedlab-mm", description="Federated multimodal recommendation: train, compare, look at data."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser("train", help="train one recipe and report it at its best validation round")
    train.add_argument("--out", help="folder to save the run in")
    train.add_argument("--resume", help="folder of a saved run to go on from")
    train.set_defaults(run=_train)
    _add_recipe(train, several=())

    compare = commands.add_parser("compare", help="train several recipes over seeds, beside simple baselines")
    compare.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 (default: 3)")
    compare.add_argument("--csv", help="file to write the table to")
    compare.set_defaults(run=_compare)
    _add_recipe(compare, several=("backbone", "method"), leave_out=("seed",))

    data = commands.add_parser("data", help="describe a dataset")
    data.add_argument("name", help=f"one of: {', '.join(names('dataset'))}")
    data.add_argument("--root", help="the dataset's folder, or the one that holds it")
    data.set_defaults(run=_data)

    execute = commands.add_parser("execute", help="execute a notebook; keep it, its tables and its pictures")
    execute.add_argument("notebook")
    execute.add_argument("--out", default="out", help="folder for the executed notebook and its pictures")
    execute.set_defaults(run=_execute)
    return parser


def _add_recipe(parser: argparse.ArgumentParser, several: Sequence[str], leave_out: Sequence[str] = ()) -> None:
    """An option for every field of a Recipe, so that the two cannot drift apart."""
    parser.add_argument("--root", help="the dataset's folder, or the one that holds it")
    group = parser.add_argument_group("recipe", "see help(fedlab_mm.Recipe); defaults in brackets")
    hints = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        if field.name in leave_out:
            continue
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            hint = typing.get_args(hint)[0]
        many = field.name in several or typing.get_origin(hint) is tuple
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        family = {"operators": "operator"}.get(field.name, field.name)
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=str if typing.get_origin(hint) is tuple else hint,
            nargs="+" if many else None,
            default=argparse.SUPPRESS,
            help=f"{', '.join(names(family))} [{default}]" if names(family) else f"[{default}]",
        )


def _fields_given(options: argparse.Namespace) -> dict[str, typing.Any]:
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe) if hasattr(options, f.name)}


if __name__ == "__main__":
    sys.exit(main())
