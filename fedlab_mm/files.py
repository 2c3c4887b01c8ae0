"""Files that come with the package, beside its code: the notebooks, and the tables that figures are drawn from. And one
way to put a file, or a folder, in its place on every system."""

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def beside(place: Path) -> Path:
    """A new name beside a file or folder. What is opened there anew has the mode that the umask gives: the files of
    `tempfile` are their owner's only."""
    return place.with_name(f".{place.name[:40]}-{secrets.token_hex(8)}")


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A path beside `place`, to write a file or make a folder at. It takes its place when the block ends, and is gone
    when the block fails. A file or folder that stood there stays until then.

    What is written is as readable as any new file of this user (its umask decides), whoever wrote it: some libraries
    write for their owner only.

    Raises:
        FedlabError: a folder cannot be renamed, as on Windows while a program has a file of the old one open.
    """
    place = Path(os.path.realpath(place))  # a link goes on to point at what it names
    partial = beside(place)
    partial.touch(exist_ok=False)
    usual = stat.S_IMODE(partial.stat().st_mode)
    partial.unlink()
    try:
        yield partial
        for path in [partial, *partial.rglob("*")]:
            if path.is_file():
                path.chmod(usual)
        if partial.is_dir():
            _put_folder(partial, place)
        else:
            replace(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
        raise


def put(path: Path, content: str | bytes) -> None:
    """Write a file whole, or not at all. Text is written as UTF-8 with the line ends that it has, so that its bytes are
    the same on every system."""
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/stdout, a pipe: not to be replaced
        path.write_bytes(content)
        return
    with whole(path) as partial:
        partial.write_bytes(content)


def free_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that may be written; its folder is made.

    Raises:
        FedlabError: it is a folder, or nothing can be written there.
    """
    place = Path(path)
    if place.is_dir():
        raise FedlabError(f"{place} is a folder: name a file")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise FedlabError(f"{place} cannot be written ({error.strerror}): choose another place") from None
    return place


def _put_folder(partial: Path, folder: Path) -> None:
    """Rename a finished folder to its place; one that stood there goes only then, and stays if this fails."""
    replaced = partial.with_name(partial.name + "-old")
    try:
        if folder.exists():
            replace(folder, replaced)
        try:
            replace(partial, folder)
        except OSError:
            if replaced.exists():
                replace(replaced, folder)
            raise
    except OSError as error:
        raise FedlabError(
            f"{folder} cannot be put in its place ({error.strerror}): close what has its files open, or choose another "
            "folder"
        ) from None
    shutil.rmtree(replaced, ignore_errors=True)


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
