"""Files that come with the package, beside its code: the notebooks, and the tables that figures are drawn from. And one
way to put a file, or a folder, in its place on every system."""

import os
import tempfile
import time
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fedlab_mm.errors import FedlabError

PATIENCE = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between the tries to replace a file on Windows

_IN_A_CHECKOUT = {"notebooks": "notebooks", "figures/measured": "figures"}


def shipped(kind: str) -> Traversable:
    """A folder of them: within the installed package, or beside it in a checkout of the repository.

    Args:
        kind: "notebooks" or "figures/measured".

    Raises:
        FedlabError: this copy of the package has none.
    """
    package = resources.files("fedlab_mm")
    inside = package.joinpath(*kind.split("/"))
    if inside.is_dir():
        return inside
    if hasattr(package, "parent"):  # a folder, not a zip
        beside: Traversable = package.parent / _IN_A_CHECKOUT[kind]
        if beside.is_dir():
            return beside
    raise FedlabError(f"this copy of fedlab_mm has no {kind}: install its wheel, or clone its repository")


def put(path: Path, content: str | bytes) -> None:
    """Write a file whole, or not at all. Text is written as UTF-8 with the line ends that it has, so that its bytes are
    the same on every system."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(partial, 0o644)  # mkstemp's files are their owner's only
        replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def replace(partial: str | Path, place: Path) -> None:
    """Rename a finished file, or a folder, to its place; a file that stood there is gone then.

    Windows refuses while anybody reads either of them: another process for a moment, or a scanner that looks at what is
    new. There it is tried again for two seconds.
    """
    for wait in PATIENCE if os.name == "nt" else ():
        try:
            return os.replace(partial, place)
        except PermissionError:
            time.sleep(wait)
    os.replace(partial, place)
