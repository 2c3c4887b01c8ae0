"""Who stays in, and which interaction is for training, validation and test."""

import re
from typing import Any

import numpy as np
import pandas as pd

from fedlab_mm.errors import FedlabError


def places(ids: pd.Series) -> np.ndarray:
    """The place of each of some different ids once they are sorted, numbers and those within names by size.

    >>> places(pd.Series(["10", "v10", "9", "v9", "09"])).tolist()
    [2, 4, 1, 3, 0]
    """
    keys: Any = ids.to_numpy() if pd.api.types.is_integer_dtype(ids) else [_natural(str(i)) for i in ids]
    place = np.empty(len(ids), dtype=np.int64)
    place[sorted(range(len(ids)), key=keys.__getitem__)] = np.arange(len(ids))
    return place


def _natural(text: str) -> tuple[Any, ...]:
    parts: list[Any] = re.split("([0-9]+)", text)
    for n in range(1, len(parts), 2):
        digits = parts[n].lstrip("0")
        parts[n] = (len(digits), digits)
    return (*parts, text)


def leave_one_out(interactions: pd.DataFrame, last: int = 1) -> pd.Series:
    """Each user's last interaction is the test target, the one before it the validation target, the rest training.

    Args:
        interactions: columns user, item, timestamp; any order. At equal times the earlier row counts as earlier.
        last: how many are test targets, and before them as many validation targets.

    Returns:
        "train", "valid" or "test" for each row, with the index of `interactions`.

    >>> log = pd.DataFrame({"user": [0, 0, 0, 0], "item": [7, 8, 9, 5], "timestamp": [3, 1, 3, 2]})
    >>> leave_one_out(log).tolist()
    ['valid', 'train', 'test', 'train']
    """
    by_time = interactions.sort_values("timestamp", kind="stable")
    from_the_end = by_time.groupby("user").cumcount(ascending=False).reindex(interactions.index)
    split = np.select([from_the_end < last, from_the_end < 2 * last], ["test", "valid"], "train")
    return pd.Series(split, index=interactions.index, name="split")


def temporal(interactions: pd.DataFrame, held_out: float = 0.2) -> pd.Series:
    """One clock for all users: the first 1 − `held_out` of all interactions train, the next half of the rest validates,
    the last half tests. A user's target is its first interaction in each span; those after it are not used.

    Leave-one-out lets a model train on what others did after a user's target; this split does not. Its price: only
    users who are active in a span have a target there.

    Returns:
        "train", "valid", "test" or "" (not used) for each row. Interactions at the same second fall on one side.

    >>> log = pd.DataFrame({"user": [0, 0, 1, 1, 0], "item": range(5), "timestamp": [1, 2, 3, 4, 5]})
    >>> temporal(log, held_out=0.4).tolist()
    ['train', 'train', 'train', 'valid', 'test']
    """
    if not 0 < held_out < 1:
        raise FedlabError(f"held_out={held_out}: the share held out lies between 0 and 1")
    times = np.sort(interactions["timestamp"].to_numpy())
    n = len(times)
    starts = times[[min(n - 1, round(n * (1 - share))) for share in (held_out, held_out / 2)]]
    span = pd.Series(np.searchsorted(starts, interactions["timestamp"], side="right"), index=interactions.index)
    by_time = interactions.assign(span=span).sort_values("timestamp", kind="stable")
    first = (by_time.groupby(["user", "span"]).cumcount() == 0).reindex(interactions.index)
    split = np.select([span == 0, first & (span == 1), first & (span == 2)], ["train", "valid", "test"], "")
    return pd.Series(split, index=interactions.index, name="split")


def without_repeats(interactions: pd.DataFrame) -> pd.DataFrame:
    """The earliest row of every user–item pair; where a pair stands in two splits, the held-out one: training on a
    target would be a leak.

    >>> log = pd.DataFrame({"user": [0, 0], "item": [7, 7], "timestamp": [2, 1]})
    >>> without_repeats(log)["timestamp"].tolist()
    [1]
    """
    order = ["timestamp"]
    log = interactions
    if "split" in log:
        log = log.assign(_order=log["split"].map({"test": 0, "valid": 1, "train": 2}))
        order = ["_order", "timestamp"]
    kept = log.sort_values(order, kind="stable").drop_duplicates(["user", "item"])
    return interactions[interactions.index.isin(kept.index)]


def k_core(interactions: pd.DataFrame, users: int, items: int) -> pd.DataFrame:
    """What is left once users with fewer than `users` interactions and items with fewer than `items` are taken out
    again and again, until none is left to take out.

    >>> log = pd.DataFrame({"user": [0, 0, 1, 1, 2], "item": [5, 6, 5, 6, 6]})
    >>> k_core(log, users=2, items=2)["user"].unique().tolist()
    [0, 1]
    """
    while True:
        n_of_user = interactions.groupby("user")["user"].transform("size")
        kept = interactions[n_of_user >= users]
        n_of_item = kept.groupby("item")["item"].transform("size")
        kept = kept[n_of_item >= items]
        if len(kept) == len(interactions):
            return kept
        interactions = kept
