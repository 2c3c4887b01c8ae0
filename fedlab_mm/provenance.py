"""The code that a result rests on, as a hash: what other code made is not read back as if this one had made it.

Two kinds of code decide a result. The package's own is hashed by its text, without comments and docstrings. Members
that somebody else registered, in a cell or a file, are hashed by what runs: the bytecode of their methods, and all that
those name in modules that nobody installed, a helper function or a constant. A cell that is edited and run again gives
another hash; one that is only run again gives the same.
"""

import ast
import contextlib
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

# Modules that show results, or ask about them, and decide none. (What data and encoders make is hashed as data.)
_SHOWING = {"audit.py", "attacks", "cli", "encoding", "figures", "geometry.py", "notebooks", "plotting"}
_SHOWING |= {"reported", "widgets"}


def code_behind(members: Iterable[Any] = ()) -> str:
    """SHA-256 of the package's numerical code, and of those of the given members of families that are not its own."""
    package = _text() if "IPython.extensions.autoreload" in sys.modules else _text_at_first()
    foreign = sorted(what_runs(member) for member in members if is_foreign(member))
    return hashlib.sha256(" ".join([package, *foreign]).encode()).hexdigest()


def is_foreign(member: Any) -> bool:
    """Whether a member of a family is somebody else's than this package's."""
    return not str(getattr(member, "__module__", "")).startswith("fedlab_mm.")


def what_runs(member: Any) -> str:
    """SHA-256 of a class or function: its bytecode, and what that names in modules that nobody installed."""
    digest = hashlib.sha256()
    for part in _parts(member, []):
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _parts(thing: Any, seen: list[Any]) -> Iterator[str]:
    """What decides how a thing behaves, one after the other; `seen` are things that may hold themselves."""
    if isinstance(thing, (int, float, complex, str, bytes, bool, type(None), type(...))):
        yield f"{type(thing).__name__} {thing!r}"
    elif isinstance(thing, CodeType):
        named = [(i.opname, i.argval) for i in dis.get_instructions(thing) if isinstance(i.argval, str)]
        yield from (thing.co_code.hex(), repr(named))
        for constant in thing.co_consts:
            yield from _parts(constant, seen)
    elif isinstance(thing, (tuple, set, frozenset)):
        yield f"{type(thing).__name__} {len(thing)}"
        for element in thing if isinstance(thing, tuple) else sorted(thing, key=repr):
            yield from _parts(element, seen)
    elif isinstance(thing, (staticmethod, classmethod)):
        yield from _parts(thing.__func__, seen)
    elif isinstance(thing, property):
        yield from _parts((thing.fget, thing.fset), seen)
    elif isinstance(thing, (functools.cached_property, functools.partial)):
        yield from _parts(thing.func, seen)
        yield from _parts(getattr(thing, "args", ()), seen)
        yield from _parts(getattr(thing, "keywords", {}), seen)
    elif not any(thing is other for other in seen):
        seen.append(thing)
        yield f"{type(thing).__qualname__} {getattr(thing, '__qualname__', '')}"
        yield from _parts_of_object(thing, seen)


def _parts_of_object(thing: Any, seen: list[Any]) -> Iterator[str]:
    if isinstance(thing, (list, dict)):
        for element in thing.items() if isinstance(thing, dict) else thing:
            yield from _parts(element, seen)
    elif isinstance(thing, ModuleType):
        yield thing.__name__
        if not _is_installed(thing) and getattr(thing, "__file__", None):
            yield hashlib.sha256(Path(str(thing.__file__)).read_bytes()).hexdigest()
    elif _is_installed(sys.modules.get(getattr(thing, "__module__", None) or type(thing).__module__)):
        if hasattr(thing, "tolist"):  # an array, a tensor
            yield from _parts(thing.tolist(), seen)
        elif " at 0x" not in (text := repr(thing)):
            yield text
    elif isinstance(thing, type):
        yield from _parts(thing.__bases__, seen)
        for name, value in sorted(vars(thing).items()):
            if name == "__annotations__" or not name.startswith("__") or inspect.isroutine(value):
                yield name
                yield from _parts(value, seen)
    elif isinstance(thing, FunctionType):
        yield from _of_function(thing, seen)
    else:
        yield from _parts(type(thing), seen)
        yield from _parts(getattr(thing, "__dict__", {}), seen)


def _of_function(function: FunctionType, seen: list[Any]) -> Iterator[str]:
    code = function.__code__
    if function.__doc__ is not None and code.co_consts[:1] == (function.__doc__,):
        code = code.replace(co_consts=(None, *code.co_consts[1:]))  # what it says decides nothing
    yield from _parts((code, function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a name that its function has not given a value yet
            yield from _parts(cell.cell_contents, seen)
    for name in sorted(_globals_of(code)):
        if name in function.__globals__:
            yield name
            yield from _parts(function.__globals__[name], seen)


def _globals_of(code: CodeType) -> set[str]:
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_globals_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _is_installed(module: ModuleType | None) -> bool:
    """Python's own modules and those of packages, whose version is told; a notebook's cells and a user's files are
    neither."""
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return module is not None and module.__name__ in sys.builtin_module_names
    if module.__name__.split(".")[0] == "fedlab_mm":
        return True
    roots = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(root in Path(file).resolve().parents for root in roots)


@functools.lru_cache(maxsize=1)
def _text_at_first() -> str:
    """The package's hash when it was first asked for: what is edited later is not what this process imported."""
    return _text()


def _text() -> str:
    digest = hashlib.sha256()
    for name, file in sorted(_modules(resources.files("fedlab_mm"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(f"{name} {ast.dump(tree)} ".encode())
    return digest.hexdigest()


def _modules(folder: Traversable, under: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if not under and entry.name in _SHOWING:
            continue
        if entry.is_dir():
            yield from _modules(entry, f"{under}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield under + entry.name, entry
