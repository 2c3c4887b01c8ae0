"""A dataset by its name, or from a folder."""

import os
from pathlib import Path
from typing import Any

from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import lookup, names


def load(
    name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any
) -> Any:
    """A dataset by name, or a folder of your own.

    "toy" is generated. Others are read from `root`, $FEDLAB_MM_DATA or the user's cache folder, and fetched into the
    latter where their publishers allow it. A folder holds `interactions.csv` and `items.csv` (see `data/folder.py`).

    Args:
        name: of a dataset (`available()["dataset"]`; some have parts, as in "amazon:All_Beauty"), or a folder's path.
        root: the dataset's folder, or the folder that holds it.
        seed: of generated data.
        options: the choices of `data.Preparation`: core, fewest, split, min_rating, held_out, missing, encoder, device,
            cache, progress.

    Returns:
        A `Dataset`, or a `ClickLog` for click prediction.

    Raises:
        FedlabError: an unknown name or option, files that are not there (the message says where to get them), bad
            content.

    >>> load("toy").n_items
    500
    """
    text = os.fspath(name)
    family, _, part = text.partition(":")
    is_path = "/" in text or os.sep in text or Path(text).is_dir()
    if is_path and text not in names("dataset") and family not in names("dataset"):
        return lookup("dataset", "folder").load(root=text, seed=seed, **options)
    if part and family in names("dataset"):
        member = lookup("dataset", family)
        if not hasattr(member, "of"):
            raise FedlabError(f"dataset '{family}' has no parts, so '{part}' is none of them")
        return member.of(part).load(root=root, seed=seed, **options)
    return lookup("dataset", text).load(root=root, seed=seed, **options)
