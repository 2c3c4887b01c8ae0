"""All that decides a run, given the data: one frozen record that notebooks, the command line and saved runs share.

What every run has is here. What only some read is declared beside the class that reads it: a task's, a backbone's and a
method's `Params`. A recipe holds those of its own parts, and finds a setting among them by its name.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.provenance import code_behind, is_foreign
from fedlab_mm.registry import foreign_members, lookup, lookup_in, names
from fedlab_mm.settings import (
    NOT_NEGATIVE,
    POSITIVE_OR_NONE,
    Settings,
    at_least,
    family_of,
    member_of,
    one_of,
    setting,
)

_NAMED = ("dataset", "backbone", "method")


@dataclass(frozen=True, init=False, repr=False)
class Recipe(Settings):
    """All that decides a run, given the data. Two runs of one recipe on one dataset agree, whatever the engine.

    The settings below are those of every run. Others belong to its parts and are named in the same way,
    `Recipe(operators=("sum",))`: what ranking reads (`fedlab_mm.tasks.ranking.Ranking.Params`: operators, negatives,
    dim, k, …), click prediction (`fedlab_mm.tasks.clicks.Clicks.Params`), the mechanisms of privacy
    (`fedlab_mm.federation.mechanisms`: noise, clip, …), and what a backbone or a method declares, such as FedRAP's
    alpha. `recipe.settings` lists them.

    The defaults of feature_scale and rounds, and the rates of linear backbones under SGD, were chosen by validation
    NDCG@50 on KU and the toy set, 18 settings for `none` and 24 for `fedvlr`, seed 0.

    Attributes:
        dataset: a name that `load` knows.
        backbone: the ID-based recommender.
        method: where multimodal fusion happens around it.
        rounds: communication rounds T.
        patience: stop when validation NDCG has not risen for so many validations in a row; None: never before T.
        local_epochs: A, full-batch steps of a client in a round.
        clients: the share of clients that take part in a round, in (0, 1].
        sampling: how a round's clients are drawn where not all take part: "rested", none of the last round's; "fixed",
            as many, without memory; "poisson", each with that chance, so their number varies and may be zero.
        lr: η of what a client keeps (predictor, router). None: the backbone's own under SGD, 0.003 under Adam; of click
            models 0.5 and 0.01.
        shared_lr: η of what is shared: a client's copies of it and the server's D and γ. None: lr, for the papers write
            one η for all; of FedNCF 1 where lr is open too (at its 0.3 it stays below popularity on KU; at 1 it
            diverges there under noise, and under gfmfr and vbpr with one seed of three: name lower rates); of click
            models under the server's Adam 0.01.
        optimizer: of the client: "sgd" as the algorithms state, or "adam", which starts afresh each round.
        server_optimizer: of the server; its Adam goes on from round to round. None: the client's, but of click models
            "sgd", the plain mean.
        weight_decay: L2 penalty added to the gradients, of clients and server alike.
        aggregation: how uploads are mixed; None for the backbone's own.
        init_scale: standard deviation of the initial item tables; 0 beside content: an item's ID then says nothing
            until somebody has met it.
        evaluate_every: rounds between two validations.
        seed: of initial values, client sampling and negatives.
        precision: "float32" or "float64".
        engine: "stacked" (fast) or "loop" (the algorithm, line by line).
        chunk: clients that stacked takes at once; None: as many as fit the cache.
        device: "cpu", or as torch names another, "cuda"; samples are drawn on the CPU and are the same everywhere.
    """

    dataset: str = setting("toy")
    backbone: str = setting("fcf")
    method: str = setting("fedvlr")
    parts: tuple[Settings, ...] = ()
    rounds: int = setting(60, at_least(1))
    patience: int | None = setting(None, at_least(1))
    local_epochs: int = setting(5, at_least(1))
    clients: float = setting(1.0)
    sampling: str = setting("rested", member_of("sampling"))
    lr: float | None = setting(None, POSITIVE_OR_NONE)
    shared_lr: float | None = setting(None, POSITIVE_OR_NONE)
    optimizer: str = setting("sgd", member_of("optimizer"))
    server_optimizer: str | None = setting(None, member_of("optimizer"))
    weight_decay: float = setting(0.0, NOT_NEGATIVE)
    aggregation: str | None = setting(None, member_of("aggregation"))
    init_scale: float = setting(0.1, NOT_NEGATIVE)
    evaluate_every: int = setting(1, at_least(1))
    seed: int = setting(0, NOT_NEGATIVE)
    precision: str = setting("float32", one_of("float32", "float64"))
    engine: str = setting("stacked")
    chunk: int | None = setting(None, at_least(1))
    device: str = setting("cpu")

    def __init__(self, dataset: str = "toy", backbone: str = "fcf", method: str = "fedvlr", **given: Any) -> None:
        """
        Raises:
            FedlabError: a name that is not registered, a value that its setting does not take, a setting that nobody
                has, or that means nothing to this backbone with this method.
        """
        given |= {"dataset": dataset, "backbone": backbone, "method": method}
        common = _fields(Recipe)
        for name, f in common.items():
            object.__setattr__(self, name, given.get(name, f.default))
        object.__setattr__(self, "parts", ())
        self.__post_init__()
        rest = {name: value for name, value in given.items() if name not in common}
        owners = _owners(self.backbone, self.method)
        _refuse_twins(owners)
        for name in rest:
            if not any(name in _fields(owner) for owner in owners):
                raise FedlabError(self._foreign(name, rest[name]))
        parts = (owner(**{n: v for n, v in rest.items() if n in _fields(owner)}) for owner in owners)
        object.__setattr__(self, "parts", tuple(parts))

    def check_fields(self) -> None:
        for family in ("backbone", "method", "engine"):
            if isinstance(getattr(self, family), str):
                lookup_in((family, f"click {family}"), getattr(self, family))
        super().check_fields()

    def check(self) -> None:
        if not 0 < self.clients <= 1:
            raise FedlabError(f"clients={self.clients}: the share of clients in a round lies in (0, 1]")
        if self.seed >= 2**64:
            raise FedlabError(f"seed={self.seed}: must be below 2**64, for that is what generators take")

    def __getattr__(self, name: str) -> Any:
        """A setting of one of its parts."""
        if not name.startswith("_") and "parts" in vars(self):
            for part in self.parts:
                if name in vars(part):
                    return getattr(part, name)
            raise AttributeError(self._foreign(name))
        raise AttributeError(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.settings})

    def to_dict(self) -> dict[str, Any]:
        """Every setting that it reads, by name."""
        return {name: getattr(self, name) for name in _in_order(self.parts)}

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults.

        >>> Recipe(method="none", lr=0.5).changed
        {'method': 'none', 'lr': 0.5}
        """
        return {n: v for n, f in _in_order(self.parts).items() if (v := getattr(self, n)) != f.default}

    def __repr__(self) -> str:
        """What it trains, and what differs from the defaults.

        >>> Recipe(lr=0.5)
        Recipe(dataset='toy', backbone='fcf', method='fedvlr', lr=0.5)
        """
        told = {name: getattr(self, name) for name in _NAMED} | self.changed
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    def _repr_html_(self) -> str:
        told = {n: str(v) for n, v in self.changed.items() if n not in _NAMED}
        return pd.Series({"recipe": f"{self.label} on {self.dataset}", **told}, name="").to_frame().to_html()

    def but(self, **changes: Any) -> "Recipe":
        """This recipe with some settings changed.

        Settings that only the former backbone or method reads go back to their defaults.

        >>> Recipe().but(method="none", seed=3).label
        'fcf + none'
        >>> Recipe(backbone="fedrap", alpha=1.0).but(backbone="fcf") == Recipe()
        True

        Raises:
            FedlabError: as for a new recipe.
        """
        now = [changes.get(family, getattr(self, family)) for family in ("backbone", "method")]
        kept = self.changed
        if now != [self.backbone, self.method]:
            owners: list[type[Settings]] = [Recipe, *_owners(*now)]
            kept = {n: v for n, v in kept.items() if any(n in _fields(owner) for owner in owners)}
        return type(self)(**{**kept, **changes})

    @property
    def settings(self) -> frozenset[str]:
        """The names of the settings that this backbone with this method reads."""
        return frozenset(_in_order(self.parts))

    def refuse_foreign(self, task: str) -> None:
        """Complain of a setting that was changed and means nothing to this task.

        A recipe whose names both tasks know holds the settings of both, until the data say which it is.

        Args:
            task: "ranking" or "clicks".

        Raises:
            FedlabError: names the setting, and who reads it.
        """
        owners: list[type[Settings]] = [Recipe, *_owners(self.backbone, self.method, (task,))]
        for name, value in self.changed.items():
            if not any(name in _fields(owner) for owner in owners):
                raise FedlabError(self._foreign(name, value))

    def _foreign(self, name: str, value: Any = None) -> str:
        """What is wrong with a setting that no part of this recipe has."""
        readers = _readers().get(name, [])
        if not readers:
            near = difflib.get_close_matches(name, _readers(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ": see help(fedlab_mm.Recipe)"
            return f"a Recipe has no {name}{hint}"
        told = name if value is None else f"{name}={value!r}"
        return f"{told}: '{self.label}' does not read it; it is a setting of {', '.join(readers)}"

    @property
    def label(self) -> str:
        return f"{self.backbone} + {self.method}"

    @property
    def code(self) -> str:
        """SHA-256 of the code that a run of this recipe rests on (see `provenance`)."""
        named = [m for family in ("backbone", "method", "engine") for m in self._members(family)]
        for part in (self, *self.parts):
            named += [
                lookup(family, name)
                for f in fields(part)
                if (family := family_of(f)) and (name := getattr(part, f.name))
            ]
        for task in _tasks():
            for stage in _stages(task):
                own = [name for name in _fields(stage.Params) if name in self.settings]
                if any(getattr(self, name) != _fields(stage.Params)[name].default for name in own):
                    named.append(stage)
            named += [lookup(f"{task.prefix}metric", name) for name in names(f"{task.prefix}metric")]
        named += [lookup("operator", o) for o in getattr(self, "operators", ()) if o.partition(":")[0] != "solo"]
        # A member that is not ours may name others that are not: their loss, their rule.
        return code_behind(foreign_members() if any(is_foreign(m) for m in named) else ())

    def _members(self, family: str) -> list[Any]:
        """What the recipe names in a family: two, where ranking and clicks both have the name."""
        name = getattr(self, family)
        return [lookup(kind, name) for kind in (family, f"click {family}") if name in names(kind)]

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def to_json(self) -> str:
        """Every setting that it reads, as JSON; of stages that are not the package's own only what was changed, for a
        run is to be read where they are not there."""
        guests = {n for task in _tasks() for stage in _stages(task) if is_foreign(stage) for n in _fields(stage.Params)}
        told = {n: v for n, v in self.to_dict().items() if n not in guests or n in self.changed}
        return json.dumps(told, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The inverse of `to_json`. Settings that the recipe's parts do not read meant nothing, and are passed over:
        before 0.2 a recipe held those of all parts.

        >>> Recipe.from_json(Recipe(lr=0.5).to_json()) == Recipe(lr=0.5)
        True
        """
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("a recipe's JSON holds names and values, in braces")
        plain = cls(**{name: given[name] for name in _NAMED if name in given})
        known = _readers()
        return cls(**{name: v for name, v in given.items() if name in plain.settings or name not in known})


def defaults() -> dict[str, Any]:
    """Every setting of the package's own parts, with its default: what a recipe's changes are told against."""
    owners: list[type[Settings]] = [Recipe]
    for owner, _ in _all_owners():
        if not is_foreign(owner):
            owners.append(owner)
    return {f.name: f.default for owner in owners for f in _fields(owner).values()}


def owners_of_settings() -> dict[str, list[tuple[type[Settings], str]]]:
    """Each setting's name, with the classes that declare it and who they belong to in words: for the command line."""
    found: dict[str, list[tuple[type[Settings], str]]] = {name: [(Recipe, "every run")] for name in _fields(Recipe)}
    for owner, reader in _all_owners():
        for name in _fields(owner):
            found.setdefault(name, []).append((owner, reader))
    return found


def _fields(owner: type[Settings]) -> dict[str, Any]:
    """The settings that a class of settings declares."""
    return {f.name: f for f in fields(owner) if f.name != "parts"}


def _in_order(parts: Sequence[Settings]) -> dict[str, Any]:
    """The fields of a recipe with these parts, in the order in which they are told: what is trained first."""
    common = _fields(Recipe)
    first = {name: common.pop(name) for name in _NAMED}
    return first | {n: f for part in parts for n, f in _fields(type(part)).items()} | common


def _owners(backbone: str, method: str, tasks: Sequence[str] | None = None) -> list[type[Settings]]:
    """The classes whose settings a backbone with a method reads, each once."""
    known = _tasks() if tasks is None else [lookup("task", name) for name in tasks]

    def has(task: Any) -> list[bool]:
        return [backbone in names(f"{task.prefix}backbone"), method in names(f"{task.prefix}method")]

    fitting = [task for task in known if all(has(task))] or [task for task in known if any(has(task))]
    owners: list[type[Settings]] = []
    for task in fitting:
        owners += [task.Params, *(stage.Params for stage in _stages(task))]
        for family, name in (("backbone", backbone), ("method", method)):
            if name in names(f"{task.prefix}{family}"):
                owners.append(getattr(lookup(f"{task.prefix}{family}", name), "Params", Settings))
    once = list(dict.fromkeys(owners))
    return [owner for owner in once if not any(owner is not other and issubclass(other, owner) for other in once)]


def _refuse_twins(owners: Sequence[type[Settings]]) -> None:
    """Complain of two classes that declare a setting of one name: whose it is could not be told."""
    declared: dict[str, type[Settings]] = dict.fromkeys(_fields(Recipe), Recipe)
    for owner in owners:
        for name in _fields(owner):
            if name in declared:
                twins = f"{declared[name].__qualname__} and {owner.__qualname__}"
                raise FedlabError(f"{name}: {twins} both declare it: give one another name")
            declared[name] = owner


def _all_owners() -> Iterator[tuple[type[Settings], str]]:
    """(class of settings, who reads them) of all tasks, backbones and methods."""
    tasks = _tasks()
    for task in tasks:
        yield task.Params, task.what
        for stage in _stages(task):
            yield stage.Params, task.what
    for task in tasks:
        for family in ("backbone", "method"):
            for name in names(f"{task.prefix}{family}"):
                owner = getattr(lookup(f"{task.prefix}{family}", name), "Params", Settings)
                yield owner, f"{task.prefix}{family} '{name}'"


def _stages(task: Any) -> list[Any]:
    """The stages of the channel between a task's clients and their server."""
    name = next(n for n in names("task") if lookup("task", n) is type(task) or lookup("task", n) is task)
    stages = sorted((lookup("stage", n) for n in names("stage")), key=lambda stage: stage.order)
    return [stage for stage in stages if name in stage.tasks]


def _tasks() -> list[Any]:
    """Those whose families have the plain names first."""
    return sorted((lookup("task", name) for name in names("task")), key=lambda task: task.prefix)


def _readers() -> dict[str, list[str]]:
    """Who reads a setting, by its name."""
    return {name: [reader for _, reader in told] for name, told in owners_of_settings().items()}
