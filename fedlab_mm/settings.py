"""Settings beside the class that reads them: how a part of a recipe is declared, and how its values are checked.

A member of a family (a method, a backbone, a task) has its settings in a class `Params` of its own:

    class FedRAP(LinearBackbone):
        @dataclass(frozen=True)
        class Params(Settings):
            alpha: float = setting(0.1, NOT_NEGATIVE)

A recipe, the command line and a saved run find them there. The annotation says what kind of value is meant; a setting
that may be None is annotated so.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import lookup

Check = Callable[[str, Any], None]
_KINDS: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a name"),
}


@dataclass(frozen=True)
class Settings:
    """The settings of one member; none, as it stands.

    Raises:
        FedlabError: a value that its field does not take.
    """

    def __post_init__(self) -> None:
        self.check_fields()
        self.check()

    def check(self) -> None:
        """Complain of what no field can tell alone."""

    def check_fields(self) -> None:
        """Turn each value into the kind that its field has, and complain of what it does not take."""
        hints = get_type_hints(type(self))
        for f in fields(self):
            if "checks" not in f.metadata:
                continue
            value = as_meant(f.name, getattr(self, f.name), hints[f.name])
            object.__setattr__(self, f.name, value)
            if value is not None:
                for check in f.metadata["checks"]:
                    check(f.name, value)


def setting(default: Any, *checks: Check) -> Any:
    """A field of a `Settings`.

    Args:
        checks: each is given name and value, and complains of a value that the field does not take. None passes.
    """
    return field(default=default, metadata={"checks": checks})


def as_meant(name: str, value: Any, hint: Any) -> Any:
    """A value as its annotation means it: whole numbers also from numpy; a name alone for a tuple of one.

    Raises:
        FedlabError: it is of another kind.
    """
    if hint == tuple[str, ...]:
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, tuple | list) or not all(isinstance(v, str) for v in value):
            raise FedlabError(f"{name}={value!r}: must be a name or several, as in {name}=('…', '…')")
        return tuple(value)
    plain, *optional = get_args(hint) or (hint,)
    if value is None and optional:
        return None
    kind, what = _KINDS[plain]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FedlabError(f"{name}={value!r}: must be {what}")
    return plain(value)


def at_least(least: int) -> Check:
    def check(name: str, value: Any) -> None:
        if value < least:
            raise FedlabError(f"{name}={value}: must be at least {least}")

    return check


def one_of(*choices: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise FedlabError(f"unknown {name} '{value}': there are: {', '.join(choices)}")

    return check


@dataclass(frozen=True)
class member_of:
    """The name of a registered member."""

    family: str

    def __call__(self, name: str, value: Any) -> None:
        try:
            lookup(self.family, value)
        except FedlabError as error:
            raise error if name == self.family else FedlabError(f"{name}: {error}") from None


def _positive(name: str, value: Any) -> None:
    if not 0 < value < float("inf"):
        raise FedlabError(f"{name}={value}: must be a positive number")


def _positive_or_none(name: str, value: Any) -> None:
    if not 0 < value < float("inf"):
        raise FedlabError(f"{name}={value}: must be a positive number, or None")


def _not_negative(name: str, value: Any) -> None:
    if not 0 <= value < float("inf"):
        raise FedlabError(f"{name}={value}: must not be negative")


POSITIVE: Check = _positive
POSITIVE_OR_NONE: Check = _positive_or_none
NOT_NEGATIVE: Check = _not_negative


def family_of(f: Any) -> str | None:
    """The family that a field names a member of, if it does."""
    return next((check.family for check in f.metadata.get("checks", ()) if isinstance(check, member_of)), None)


def told_of(owner: type) -> dict[str, str]:
    """What the docstring of a class says of each of its fields, in one line each: name -> text.

    >>> told_of(Told)["rate"]
    'how fast; in steps a second.'
    """
    told: dict[str, str] = {}
    for cls in reversed(owner.__mro__):
        section = re.search(r"Attributes:\n(.*?)(?=\n\S|\n *\w+:\n|\Z)", inspect.cleandoc(cls.__doc__ or ""), re.DOTALL)
        if section:
            for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE):
                told |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return told


@dataclass(frozen=True)
class Told(Settings):
    """An example.

    Attributes:
        rate: how fast;
            in steps a second.
    """

    rate: float = setting(1.0, POSITIVE)


def fields_of(owners: Sequence[type[Settings]]) -> dict[str, Any]:
    """The fields of several owners by name, those of a later owner over those of an earlier."""
    return {f.name: f for owner in owners for f in fields(owner)}
