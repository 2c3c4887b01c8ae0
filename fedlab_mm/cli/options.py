"""Options that several commands share: of datasets, of recipes, of searches."""

import argparse
import dataclasses
import shlex
import types
import typing
from collections.abc import Sequence

from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import names


def go_on(options: argparse.Namespace, **changes: str) -> str:
    """The command that was given, with some options set anew."""
    kept = list(options.arguments)
    for name, value in changes.items():
        option = f"--{name}"
        while option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
        kept = [a for a in kept if not a.startswith(f"{option}=")] + [option, value]
    return "fedlab-mm " + shlex.join(kept)


def searched(grids: Sequence[dict[str, list[typing.Any]]]) -> list[str]:
    return sorted({name for grid in grids for name in grid})


def read_grid(fields: Sequence[str]) -> dict[str, list[typing.Any]]:
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


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=f"a folder of your own, or one of: {', '.join(names('dataset'))}")
    parser.add_argument("--root", help="the dataset's folder, or the one that holds it")


def add_preparation(parser: argparse.ArgumentParser) -> None:
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


def add_grid(parser: argparse.ArgumentParser, text: str, required: bool = False) -> None:
    parser.add_argument(
        "--grid",
        action="append",
        nargs="+",
        required=required,
        metavar="FIELD=VALUE,VALUE",
        help=f"a recipe's fields with the values to search, e.g. lr=0.01,0.1 optimizer=adam; {text}; may be repeated",
    )
    parser.add_argument("--search-seeds", type=int, default=1, help="seeds to judge a setting by (default: 1)")


def add_recipe(parser: argparse.ArgumentParser, several: Sequence[str], leave_out: Sequence[str] = ()) -> None:
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


def fields_given(options: argparse.Namespace) -> dict[str, typing.Any]:
    from fedlab_mm.recipe import owners_of_settings

    return {name: getattr(options, name) for name in owners_of_settings() if hasattr(options, name)}
