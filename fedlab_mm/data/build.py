"""From a loader's raw tables to a checked `Dataset`: what every dataset, of whatever origin, goes through."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import platformdirs
import torch

from fedlab_mm.data.splits import leave_one_out
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import SPLITS, Dataset

FEWEST_INTERACTIONS = 3  # one each to train, validate and test


def build(
    name: str,
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    features: Mapping[str, np.ndarray],
    source: str = "interactions",
    covers: np.ndarray | None = None,
    truth: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """Check, clean and split.

    Repeated user–item pairs are dropped (the earliest row stays, or the held-out one where a pair stands in two
    splits), then users with fewer than three interactions or, under a predefined split, without exactly one validation
    and one test target; both are counted in `Dataset.dropped`. Users are renumbered from 0 where any were dropped.

    Args:
        interactions: columns user, item, timestamp, and split ("train", "valid", "test"); without a split column, each
            user's last two interactions are held out.
        items: column title; row i is item i.
        features: modality -> [I, d_m].
        source: what to call the interactions in an error: a file's path.
        covers: uint8 [I, height, width, 3]; truth: what was planted.

    Raises:
        FedlabError: an interaction with an unknown item, a feature with the wrong number of rows or a NaN, nothing
            left to train on.
    """
    missing = sorted({"user", "item", "timestamp"} - set(interactions))
    if missing:
        raise FedlabError(f"{source}: column {missing[0]} is missing; there are {', '.join(map(str, interactions))}")
    if not len(interactions):
        raise FedlabError(f"{source}: there are no interactions in it")
    for column in ("user", "item", "timestamp"):
        if not pd.api.types.is_integer_dtype(interactions[column]):
            bad = pd.to_numeric(interactions[column], errors="coerce")
            row = int(np.flatnonzero(bad.isna() | (bad % 1 != 0))[:1].sum())
            value = interactions[column].iloc[row]
            raise FedlabError(f"{source}, row {row + 2}: {column} '{value}' is not a whole number")
    n_items = len(items)
    unknown = np.flatnonzero(~interactions["item"].between(0, n_items - 1))
    if len(unknown):
        row = int(unknown[0])
        raise FedlabError(
            f"{source}, row {row + 2}: item {interactions['item'].iloc[row]} is unknown; "
            f"there are items 0 to {n_items - 1}"
        )
    if "title" not in items:
        raise FedlabError("items: column title is missing")

    log = interactions.reset_index(drop=True)
    if "split" in log:
        # Where a pair stands in two splits, the held-out one stays: training on a target would be a leak.
        order = log["split"].map({"test": 0, "valid": 1, "train": 2})
        if order.isna().any():
            row = int(np.flatnonzero(order.isna())[0])
            raise FedlabError(f"{source}, row {row + 2}: split is none of {', '.join(SPLITS)}")
        log = log.assign(_order=order).sort_values(["_order", "timestamp"], kind="stable")
    else:
        log = log.sort_values("timestamp", kind="stable")
    kept = log.drop_duplicates(["user", "item"]).sort_index()
    dropped = {"repeated pairs": len(log) - len(kept)}

    n_of_user = kept.groupby("user")["item"].transform("size")
    dropped["users with fewer than three interactions"] = kept["user"][n_of_user < FEWEST_INTERACTIONS].nunique()
    kept = kept[n_of_user >= FEWEST_INTERACTIONS]
    if "split" in kept:
        counts = pd.crosstab(kept["user"], kept["split"]).reindex(columns=list(SPLITS), fill_value=0)
        whole = (counts["valid"] == 1) & (counts["test"] == 1) & (counts["train"] >= 1)
        dropped["users without one validation and one test target"] = int((~whole).sum())
        kept = kept[kept["user"].map(whole)]
    else:
        kept = kept.assign(split=leave_one_out(kept))
    if not len(kept):
        raise FedlabError(f"{source}: no user has three interactions, one each to train, validate and test")
    for what, count in dropped.items():
        if count and what.startswith("users"):
            who = what if count > 1 else what.replace("users", "user", 1)
            warnings.warn(f"{name}: dropped {count} {who}", stacklevel=3)

    users = np.unique(kept["user"])
    kept = kept.assign(user=np.searchsorted(users, kept["user"]))
    kept = kept[["user", "item", "timestamp", "split"]].sort_values(["user", "timestamp"], kind="stable")
    if "item" not in items:
        items = items.assign(item=np.arange(n_items))
    checked = {m: torch.from_numpy(_check_feature(m, f, n_items)) for m, f in features.items()}
    return Dataset(name, kept.reset_index(drop=True), items, checked, covers, truth or {}, dropped)


def _check_feature(what: str, feature: np.ndarray, n_items: int) -> np.ndarray:
    if feature.ndim != 2 or len(feature) != n_items:
        raise FedlabError(f"{what}: has shape {list(feature.shape)}, but there are {n_items} items, a row each")
    feature = np.ascontiguousarray(feature, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(feature).all(axis=1))
    if len(bad):
        raise FedlabError(f"{what}, row {bad[0]}: holds a NaN or an infinity; encode that item again or fill it")
    return feature


def read_feature(path: Path, n_items: int) -> np.ndarray:
    """A modality's `.npy` file as float32 [n_items, d], checked; pickled content is refused.

    Raises:
        FedlabError: not an array of numbers, the wrong number of rows, a NaN.
    """
    try:
        feature = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FedlabError(f"{path}: not a .npy file of numbers ({error})") from None
    if feature.dtype.kind not in "fiu":
        raise FedlabError(f"{path}: holds {feature.dtype}, not numbers")
    return _check_feature(str(path), feature, n_items)


def read_table(path: Path, **columns: str) -> pd.DataFrame:
    """Columns of a CSV file under our names: `read_table(path, user="userID")`.

    Raises:
        FedlabError: an empty or unreadable file, a column that is not there.
    """
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise FedlabError(f"{path}: cannot be read as CSV ({error})") from None
    for column in columns.values():
        if column not in table:
            raise FedlabError(f"{path}: column {column} is missing; there are {', '.join(map(str, table))}")
    return table[list(columns.values())].set_axis(list(columns), axis=1)


def find_folder(name: str, files: tuple[str, ...], where_to_get: str, root: Any = None) -> Path:
    """The folder that holds a dataset's files: `root`, else $FEDLAB_MM_DATA, else the user's cache folder.

    Each may be the dataset's folder itself or the folder that holds it under its name.

    Raises:
        FedlabError: none of them has all files; the message says where to get them and where to put them.
    """
    cache = platformdirs.user_cache_path("fedlab_mm")
    bases = [Path(root)] if root is not None else []
    if root is None and os.environ.get("FEDLAB_MM_DATA"):
        bases.append(Path(os.environ["FEDLAB_MM_DATA"]))
    if root is None:
        bases.append(cache)
    tried = [folder.expanduser() for base in bases for folder in (base / name, base)]
    for folder in tried:
        if all((folder / file).is_file() for file in files):
            return folder
    partly = [folder for folder in tried if any((folder / file).is_file() for file in files)]
    if partly:
        lacking = [file for file in files if not (partly[0] / file).is_file()]
        found = f"{partly[0]} lacks {', '.join(lacking)}"
    else:
        found = f"no {', '.join(files)} in {' or '.join(map(str, tried))}"
    raise FedlabError(
        f"dataset '{name}': {found}. Get them from {where_to_get}; put them into {cache / name}, "
        f"or pass the folder as root, or set FEDLAB_MM_DATA to it"
    )
