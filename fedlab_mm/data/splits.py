"""Which interaction is for training, validation and test."""

import numpy as np
import pandas as pd


def leave_one_out(interactions: pd.DataFrame) -> pd.Series:
    """Each user's last interaction is the test target, the one before it the validation target, the rest training.

    Args:
        interactions: columns user, item, timestamp; any order. At equal times the earlier row counts as earlier.

    Returns:
        "train", "valid" or "test" for each row, with the index of `interactions`.

    >>> log = pd.DataFrame({"user": [0, 0, 0, 0], "item": [7, 8, 9, 5], "timestamp": [3, 1, 3, 2]})
    >>> leave_one_out(log).tolist()
    ['valid', 'train', 'test', 'train']
    """
    by_time = interactions.sort_values("timestamp", kind="stable")
    from_the_end = by_time.groupby("user").cumcount(ascending=False).reindex(interactions.index)
    split = np.select([from_the_end == 0, from_the_end == 1], ["test", "valid"], "train")
    return pd.Series(split, index=interactions.index, name="split")
