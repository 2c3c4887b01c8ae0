"""Families and their names: one place to look a name up, one error that lists the choices.

A member registers itself where it is defined. `import_members` lets a package of one-class files (datasets, backbones,
methods) be extended by adding a file: nothing else has to mention it. The package's own members are imported when
somebody first asks for a name, or registers one of their own. So are those of other installed packages that name a
module in the entry-point group "fedlab_mm".
"""

import difflib
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar

from fedlab_mm.errors import FedlabError
from fedlab_mm.provenance import is_foreign, what_runs

T = TypeVar("T")

_FAMILIES: dict[str, dict[str, Any]] = {}
_HOMES = (
    "aggregation attacks backbones centralised data encoding evaluation federation fusion grouping losses methods "
    "sequential tasks"
).split()
_LATER = {"figure": "figures"}  # they bring matplotlib
_imported: set[str] = set()
GUESTS = "fedlab_mm"  # the group of entry points by which other packages bring members


def register(family: str, name: str) -> Callable[[T], T]:
    """Decorator: make a class or function known as `name` in `family`.

    A name is given once. The same class of the same module, as a cell that is run again defines it, takes the place of
    its former self, with a warning if its code is another now.

    Raises:
        FedlabError: there is no such family, or something else has the name.
    """

    def remember(member: T) -> T:
        if is_foreign(member):
            _import_own(family)  # first, so that a name taken twice is told of the newcomer
            if family not in _FAMILIES:
                raise FedlabError(f"there is no family '{family}': {_choices(family, _FAMILIES)}")
        members = _FAMILIES.setdefault(family, {})
        if name in members and _origin(members[name]) != _origin(member):
            raise FedlabError(
                f"{family} '{name}' is registered twice: {members[name]} and {member}; give the new one another name"
            )
        if name in members and is_foreign(member) and what_runs(members[name]) != what_runs(member):
            warnings.warn(f"{family} '{name}' has other code now; what it made before stays as it is", stacklevel=2)
        members[name] = member
        return member

    return remember


def foreign_members() -> list[Any]:
    """All registered members that are not the package's own."""
    return [member for members in _FAMILIES.values() for member in members.values() if is_foreign(member)]


def _origin(member: Any) -> tuple[Any, Any]:
    return getattr(member, "__module__", None), getattr(member, "__qualname__", member)


def _choices(name: str, every: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), every, n=1)
    hint = f"did you mean '{near[0]}'? There are" if near else "there are"
    return f"{hint}: {', '.join(dict.fromkeys(every))}"


def names(family: str) -> list[str]:
    """The registered names of a family, sorted."""
    _import_own(family)
    return sorted(_FAMILIES.get(family, {}))


def lookup(family: str, name: str) -> Any:
    """The member of `family` called `name`.

    Raises:
        FedlabError: no such name; the message lists the choices and the nearest of them.

    >>> lookup("aggregation", "equals")
    Traceback (most recent call last):
    fedlab_mm.errors.FedlabError: unknown aggregation 'equals': did you mean 'equal'? There are: equal, weighted
    """
    return lookup_in((family,), name)


def lookup_in(families: Sequence[str], name: str) -> Any:
    """The same in the first of several families that has it; an error is told of the first, with the choices of all.

    Raises:
        FedlabError: no such name in any.
    """
    for family in families:
        _import_own(family)
    for family in families:
        if name in _FAMILIES.get(family, {}):
            return _FAMILIES[family][name]
    every = [n for family in families for n in names(family)]
    raise FedlabError(f"unknown {families[0]} '{name}': {_choices(name, every)}")


def _import_own(family: str) -> None:
    """Import the package's own members of a family, once."""
    for home in [_LATER[family]] if family in _LATER else _HOMES:
        if home not in _imported:
            _imported.add(home)  # before: its modules may ask for names themselves
            try:
                importlib.import_module(f"fedlab_mm.{home}")
            except BaseException:
                _imported.discard(home)
                raise
    _import_guests()


def _import_guests() -> None:
    """Import what other installed packages bring, once: the modules that their entry points in GUESTS name. One that
    fails is warned of, and passed over."""
    if GUESTS in _imported:
        return
    _imported.add(GUESTS)
    for point in entry_points(group=GUESTS):
        try:
            point.load()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            warnings.warn(f"the members that {point.value} would bring are not there ({told})", stacklevel=2)


def import_members(package: str, path: Sequence[str]) -> None:
    """Import every module of a package, so that its members register."""
    for module in pkgutil.iter_modules(list(path)):
        importlib.import_module(f"{package}.{module.name}")


def available() -> dict[str, list[str]]:
    """Every family's registered names (but those of figures, which are many and slow to import).

    >>> available()["aggregation"]
    ['equal', 'weighted']
    """
    first = ["dataset", "encoder", "operator", "backbone", "method", "loss", "aggregation", "engine", "task"]
    _import_own("method")
    return {family: names(family) for family in dict.fromkeys([*first, *sorted(_FAMILIES)]) if family not in _LATER}
