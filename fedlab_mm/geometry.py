"""How far apart the modalities lie, measured in the space itself: a picture of it in two dimensions depends on the
machine that drew it, and on its seed."""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedlab_mm.errors import FedlabError
from fedlab_mm.threads import single


def modality_gap(signals: Mapping[str, np.ndarray], permutations: int = 999, seed: int = 0) -> pd.DataFrame:
    """The gap between each two signals of the same items (Liang et al., NeurIPS 2022, measure it by the centroids).

    Args:
        signals: name -> float [I, D], row i of each being item i, as `Run.signals` gives them; two or more.
        permutations: how many times the two vectors of each item are swapped by a coin, to see what distance of
            centroids comes about by chance; seed: of the coins.

    Returns:
        A row for each pair: distance, of the centroids; spread, the root mean square distance of an item from its
        signal's centroid, both signals together; gap = distance / spread, which does not depend on the scale of the
        space; separable, the share of items that a linear classifier puts into the right signal (five folds by item,
        so that no item is in training and test; 0.5 is chance, 1 a gap that a plane runs through); p, of the
        permutation test that the gap is zero.

    Raises:
        FedlabError: fewer than two signals, unequal shapes, fewer than ten items, values that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> here = rng.normal(size=(200, 4))
    >>> table = modality_gap({"a": here, "b": here + [9, 0, 0, 0], "c": rng.normal(size=(200, 4))}, permutations=99)
    >>> table.round(1)
           distance  spread  gap  separable    p
    a – b       9.0     2.0  4.5        1.0  0.0
    a – c       0.2     2.0  0.1        0.5  0.3
    b – c       9.0     2.0  4.6        1.0  0.0
    """
    if len(signals) < 2:
        raise FedlabError(f"a gap lies between two signals at least; got {', '.join(signals) or 'none'}")
    shapes = {name: np.shape(z) for name, z in signals.items()}
    if len(set(shapes.values())) > 1 or any(len(s) != 2 or s[0] < 10 for s in shapes.values()):
        raise FedlabError(f"signals must be arrays of one shape [items, width], ten items or more; got {shapes}")
    for name, z_ID in signals.items():
        if not np.isfinite(z_ID).all():
            raise FedlabError(f"signal '{name}' has values that are not finite")
    if permutations < 1:
        raise FedlabError(f"permutations={permutations}: must be at least 1")
    rows = {}
    with single():  # the products are small
        for a, b in itertools.combinations(signals, 2):
            pair = np.asarray(signals[a], float), np.asarray(signals[b], float)
            rows[f"{a} – {b}"] = _between(*pair, permutations, seed)
    return pd.DataFrame(rows).T


def _between(a_ID: np.ndarray, b_ID: np.ndarray, permutations: int, seed: int) -> dict[str, float]:
    difference_ID = a_ID - b_ID
    distance = float(np.linalg.norm(difference_ID.mean(axis=0)))
    around = np.concatenate([a_ID - a_ID.mean(axis=0), b_ID - b_ID.mean(axis=0)])
    spread = float(np.sqrt((around**2).sum(axis=1).mean()))
    # Swapping an item's two vectors turns its difference round: the coins are signs.
    sign_PI = np.random.default_rng(seed).choice([-1.0, 1.0], (permutations, len(a_ID)))
    chance_P = np.linalg.norm(sign_PI @ difference_ID / len(a_ID), axis=1)
    return {
        "distance": distance,
        "spread": spread,
        "gap": distance / spread if spread else float(distance > 0),
        "separable": _separable(a_ID, b_ID, seed),
        "p": float((1 + (chance_P >= distance).sum()) / (1 + permutations)),
    }


def _separable(a_ID: np.ndarray, b_ID: np.ndarray, seed: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([a_ID, b_ID])
    if not np.ptp(x, axis=0).any():
        return 0.5
    which = np.repeat([0, 1], len(a_ID))
    folds = []
    split = KFold(5, shuffle=True, random_state=seed)
    for train, test in split.split(a_ID):
        both = np.concatenate([train, train + len(a_ID)]), np.concatenate([test, test + len(a_ID)])
        folds.append(both)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(cross_val_score(model, x, which, cv=folds).mean())
