"""From prepared tables to a checked `Dataset`: the last gate, whatever the origin."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedlab_mm.data.splits import leave_one_out, without_repeats
from fedlab_mm.data.tables import flaw
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import SPLITS, Dataset

FEWEST = 3  # one each to train, validate and test
OF_THESE = "interactions of these users"
CONSTANT = 1e-12  # a spread below so much of a column's size is the noise of double precision
LOST = 1e-3  # of a column's spread: the most that rounding to float32 may change a value by


def build(
    name: str,
    interactions: pd.DataFrame,
    items: pd.DataFrame,
    features: Mapping[str, np.ndarray],
    source: str = "interactions",
    covers: Any = None,
    truth: Mapping[str, np.ndarray] | None = None,
    dropped: Mapping[str, int] | None = None,
    *,
    user_ids: np.ndarray | None = None,
    **more: Any,
) -> Dataset:
    """Check, clean and split.

    Repeated user–item pairs are dropped (the earliest row stays, or the held-out one where a pair stands in two
    splits), then users with fewer than three interactions or, under a predefined split, without one to train on; both
    are counted in `Dataset.dropped`. A predefined split may leave a user no target, or several: everybody trains, and
    those without a target are not asked. Users are renumbered from 0 where any were dropped.

    Args:
        interactions: columns user, item, timestamp, and split ("train", "valid", "test"); without a split column, each
            user's last two interactions are held out (at equal times the higher item number is the later one).
        items: column title; row i is item i.
        features: modality -> [I, d_m]; kept as float32, or as float64 where that would lose a column.
        source: what to call the interactions in an error: a file's path.
        covers: uint8 [I, height, width, 3], or whatever gives an item's picture by `covers[item]`.
        truth: what was planted; dropped: what was left out before, and how many.
        user_ids: what each user was called in the files.
        more: further fields of `Dataset`.

    Raises:
        FedlabError: an interaction with an unknown item, a feature with the wrong number of rows or a NaN, a modality
            with an impossible name, nothing left to train on.
    """
    missing = sorted({"user", "item", "timestamp"} - set(interactions))
    if missing:
        raise FedlabError(f"{source}: column {missing[0]} is missing; there are {', '.join(map(str, interactions))}")
    if not len(interactions):
        raise FedlabError(f"{source}: there are no interactions in it")
    for column in ("user", "item", "timestamp"):
        if not pd.api.types.is_integer_dtype(interactions[column]) or interactions[column].hasnans:
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
    if "split" in log and not log["split"].isin(SPLITS).all():
        row = int(np.flatnonzero(~log["split"].isin(SPLITS))[0])
        raise FedlabError(f"{source}, row {row + 2}: split is none of {', '.join(SPLITS)}")
    if "split" not in log:  # the order of rows has no say
        log = log.sort_values(["timestamp", "item"], kind="stable", ignore_index=True)
    kept = without_repeats(log)
    counts = {"repeated pairs": len(log) - len(kept)}

    before = len(kept)
    if "split" in kept:
        trains = kept["user"].isin(kept["user"][kept["split"] == "train"])
        counts["users without training interactions"] = kept["user"][~trains].nunique()
        kept = kept[trains]
        for part in SPLITS:
            if len(kept) and part not in set(kept["split"]):
                raise FedlabError(f"{source}: the split leaves nobody a {part} interaction: try split='leave-one-out'")
    else:
        n_of_user = kept.groupby("user")["item"].transform("size")
        counts["users with fewer than three interactions"] = kept["user"][n_of_user < FEWEST].nunique()
        kept = kept[n_of_user >= FEWEST]
        kept = kept.assign(split=leave_one_out(kept))
    if len(kept) < before:
        counts[OF_THESE] = before - len(kept)
    if not len(kept):
        lost = "; ".join(f"{count} {what}" for what, count in counts.items() if count and what.startswith("users"))
        why = lost or "there is nobody"
        raise FedlabError(
            f"{source}: nobody is left with an interaction each to train, validate and test ({why}). "
            "A core can do that, or a split: try split='leave-one-out'"
        )
    for what, count in counts.items():
        if count and what.startswith("users"):
            who = what if count > 1 else what.replace("users", "user", 1)
            warnings.warn(f"{name}: dropped {count} {who}", stacklevel=3)

    total = dict(dropped or {})
    for what, count in counts.items():
        if count or dropped is None:  # what was counted before need not be counted as none again
            total[what] = total.get(what, 0) + count
    users = np.unique(kept["user"])
    ids = users if user_ids is None else np.asarray(user_ids)[users]
    kept = kept.assign(user=np.searchsorted(users, kept["user"]))
    kept = kept[["user", "item", "timestamp", "split"]].sort_values(["user", "timestamp"], kind="stable")
    if "item" not in items:
        items = pd.concat([pd.Series(np.arange(n_items), name="item"), items.reset_index(drop=True)], axis=1)
    checked = {check_modality(m): torch.from_numpy(_check_feature(name, m, f, n_items)) for m, f in features.items()}
    more["users"] = pd.DataFrame({"user": np.arange(len(users)), "id": ids})
    return Dataset(name, kept.reset_index(drop=True), items, checked, covers, truth or {}, total, **more)


def check_modality(name: Any) -> str:
    """The name, if a modality can have it: it stands in `without=`, in "solo:NAME", and before a file's ending.

    Raises:
        FedlabError: it cannot.

    >>> check_modality("ViT-B-32.openai")
    'ViT-B-32.openai'
    """
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise FedlabError(f"modality {name!r}: a name is text, neither empty nor with spaces around it")
    if name == "id":
        raise FedlabError("modality 'id': 'id' names the item ID's own signal; call the modality otherwise")
    bad = next((c for c in name if c in ":/\\" or not c.isprintable()), None)
    if bad or name.startswith("."):
        what = f"holds {bad!r}" if bad else "begins with a dot"
        raise FedlabError(f"modality {name!r}: its name {what}; call it otherwise")
    return name


def _check_feature(name: str, modality: str, feature: np.ndarray, n_items: int) -> np.ndarray:
    """The feature as float32 [I, d], or as float64 where that would lose a column; a warning tells of such columns, and
    of those that are the same for every item."""
    if feature.ndim != 2 or len(feature) != n_items:
        raise FedlabError(f"{modality}: has shape {list(feature.shape)}, but there are {n_items} items, a row each")
    if problem := flaw(feature):
        raise FedlabError(f"{modality}, {problem}; encode that item again or fill it")
    single = np.ascontiguousarray(feature, dtype=np.float32)
    constant_d, lost_d = np.zeros((2, feature.shape[1]), dtype=bool)
    for start in range(0, feature.shape[1], 64):  # so many columns are held in double at a time
        some = slice(start, start + 64)
        exact = feature[:, some].astype(np.float64)
        size = np.abs(exact).max(axis=0).clip(np.finfo(float).tiny)
        spread = (exact / size).std(axis=0)
        constant_d[some] = spread <= CONSTANT
        lost_d[some] = np.abs(exact - single[:, some]).max(axis=0) > LOST * spread * size
    lost_d &= ~constant_d
    told = []
    if constant_d.any() and n_items > 1:
        told.append(f"{_columns(constant_d)} the same for every item and tell nothing")
    if lost_d.any():
        told.append(f"{_columns(lost_d)} finer than float32 can tell apart, so all of them are kept as float64")
    if told:
        warnings.warn(f"{name}, modality '{modality}': {'; '.join(told)}", stacklevel=3)
    return np.ascontiguousarray(feature, dtype=np.float64) if lost_d.any() else single


def _columns(which_d: np.ndarray) -> str:
    return f"{which_d.sum():,} of {len(which_d):,} columns (first: {int(which_d.argmax())}) are"
