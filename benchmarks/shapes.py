"""Generated interactions of a given shape, for measuring cost: nothing in them is to be learnt."""

import numpy as np
import pandas as pd

from fedlab_mm import Dataset
from fedlab_mm.data import build

PAPERS = {"dance": (10_231, 1_676, 80_086), "movie": (15_908, 2_528, 111_091), "ml": (610, 3_650, 90_274)}
WIDTH = 512


def generated(name: str, n_users: int, n_items: int, n_interactions: int, seed: int = 0) -> Dataset:
    """So many users, items and interactions; activity and popularity are skewed as in real logs (log-normal, Zipf)."""
    rng = np.random.default_rng(seed)
    spare = n_interactions - 5 * n_users
    share = rng.lognormal(0, 1, n_users)
    wanted_U = 5 + np.minimum(rng.multinomial(spare, share / share.sum()), n_items // 2 - 5)
    popularity = 1 / np.arange(1, n_items + 1) ** 0.8
    cumulative = np.cumsum(rng.permutation(popularity / popularity.sum()))
    pairs = np.zeros(0, dtype=np.int64)
    missing_U = wanted_U
    while missing_U.any():  # draw again what came up twice
        users = np.repeat(np.arange(n_users), missing_U)
        drawn = np.minimum(np.searchsorted(cumulative, rng.random(len(users))), n_items - 1)
        pairs = np.union1d(pairs, users * n_items + drawn)
        missing_U = wanted_U - np.bincount(pairs // n_items, minlength=n_users)
    log = pd.DataFrame({"user": pairs // n_items, "item": pairs % n_items})
    log["timestamp"] = rng.permutation(len(log))
    features = {m: rng.standard_normal((n_items, WIDTH), dtype=np.float32) for m in ("image", "text")}
    return build(name, log, pd.DataFrame({"title": [str(i) for i in range(n_items)]}), features)
