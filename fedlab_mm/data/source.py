"""A dataset in three steps: find (or fetch) its files, read them as their publisher wrote them, prepare them.

A loader is one class: it says where its files come from and `read`s them into a `Raw`. Everything that is a choice, and
not a fact of the files, is in `Preparation`, and is made by `prepare`, the same for every dataset.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fedlab_mm.data.fetch import Download, fetch
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.prepare import prepare
from fedlab_mm.encoding import cache_folder
from fedlab_mm.errors import FedlabError
from fedlab_mm.network import offline
from fedlab_mm.records import Dataset


class Source:
    """Base of the datasets that are read from files.

    Attributes:
        name: what `load` calls it; files: which must be there, relative to the dataset's folder; layouts: the same,
            where the files come in several forms.
        where_to_get: for people; downloads: for `fetch`, empty where the publisher does not allow or offer it.
        licence, citation: shown by `describe`.
        defaults: how it is prepared unless told otherwise.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    where_to_get: ClassVar[str]
    downloads: ClassVar[tuple[Download, ...]] = ()
    licence: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    defaults: ClassVar[Preparation] = Preparation()

    @classmethod
    def of(cls, part: str) -> "type[Source]":
        """The class of one part of a dataset that has several, as in "amazon:All_Beauty"."""
        raise FedlabError(f"dataset '{cls.name}' has no parts, so '{part}' is none of them")

    @classmethod
    def read(cls, folder: Path) -> Raw:
        """The files of `folder`, checked."""
        raise NotImplementedError

    @classmethod
    def load(cls, root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any) -> Dataset:
        """Find, read and prepare it; `seed` has no effect, for nothing is drawn."""
        how = cls.defaults.but(**options)
        return prepare(cls.name, cls.read(cls.find(root)), how, cls.about())

    @classmethod
    def find(cls, root: str | os.PathLike[str] | None = None) -> Path:
        """The folder that holds the files, fetched into the cache where that is possible and no root was named.

        Raises:
            FedlabError: they are not there and cannot be fetched; says where to get them and where to put them.
        """
        layouts = cls.layouts or (cls.files,)
        try:
            return find_folder(cls.name, layouts, cls.where_to_get, root)
        except FedlabError as error:
            if root is not None or not cls.downloads:
                raise
            if reason := offline():
                raise FedlabError(f"{error}. It is not fetched, for {reason}") from None
            try:
                fetch(cls.downloads, cache_folder() / cls.name, cls.name)
            except FedlabError as failed:
                raise FedlabError(f"{error}. Fetching it failed too: {failed}") from None
            return find_folder(cls.name, layouts, cls.where_to_get, cache_folder())

    @classmethod
    def about(cls) -> dict[str, str]:
        return {"licence": cls.licence, "citation": cls.citation, "source": cls.where_to_get}


def find_folder(name: str, layouts: Sequence[tuple[str, ...]], where_to_get: str, root: Any = None) -> Path:
    """The folder that holds all files of one of the layouts: `root`, else $FEDLAB_MM_DATA, else the user's cache
    folder.

    Each may be the dataset's folder itself or the folder that holds it under its name.

    Raises:
        FedlabError: none of them has all files; the message says where to get them and where to put them.
    """
    cache = cache_folder()
    given = root if root is not None else os.environ.get("FEDLAB_MM_DATA")
    bases = [Path(os.path.expanduser(given))] if given else []
    if root is None:
        bases.append(cache)
    tried = [folder for base in bases for folder in (base / name, base)]

    def lacking(folder: Path, files: tuple[str, ...]) -> list[str]:
        return [file for file in files if not (folder / file).is_file()]

    for files in layouts:
        for folder in tried:
            if not lacking(folder, files):
                return folder
    found = f"no {' or '.join(', '.join(files) for files in layouts)} in {' or '.join(map(str, tried))}"
    for files in layouts:
        for folder in tried:
            if 0 < len(lacks := lacking(folder, files)) < len(files):
                found = f"{folder} lacks {', '.join(lacks)}"
    raise FedlabError(
        f"dataset '{name}': {found}. Get them from {where_to_get}; put them into {cache / name}, "
        f"or pass the folder as root, or set FEDLAB_MM_DATA to it"
    )
