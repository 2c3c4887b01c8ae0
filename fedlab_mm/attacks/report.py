"""What an attack is given, and how well it did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedlab_mm.attacks.ledger import Ledger
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset

N_BOOTSTRAP = 100


@dataclass(frozen=True)
class Scene:
    """What an attack is given: a federation to watch, and how to watch another.

    Attributes:
        data: whose privacy is at stake; watch: trains on a dataset with a seed and returns what the server wrote down.
        shadows: how many federations an attacker trains itself, where it does; seed: of what it draws.
    """

    data: Dataset
    watch: Callable[[Dataset, int], Ledger]
    shadows: int
    seed: int

    def own_UI(self, data: Dataset | None = None) -> np.ndarray:
        train = (data or self.data).train
        own_UI = np.zeros((len(train), self.data.n_items), dtype=bool)
        own_UI[train.users, train.items] = True
        return own_UI


def report(scores_UI: np.ndarray, own_UI: np.ndarray, asked_UI: np.ndarray | None = None, seed: int = 0) -> pd.Series:
    """How well scores tell own from other, with 95 % bootstrap intervals over users.

    Args:
        scores_UI: higher means more likely own; own_UI: the truth; asked_UI: which pairs count, all if left out.

    Returns:
        auc (the mean over users of each user's own), auc low and high; tpr@1%fpr (one threshold for all users), low and
        high; users. An auc below one half is no safety: its scores tell own from other upside down.

    >>> own = np.tile([True, False, False, False], (9, 1))
    >>> report(own + 0.0, own)[["auc", "tpr@1%fpr"]].tolist()
    [1.0, 1.0]
    """
    from scipy.stats import rankdata

    asked_UI = np.ones_like(own_UI, dtype=bool) if asked_UI is None else asked_UI
    users, aucs = [], []
    for u in range(len(own_UI)):
        own, score = own_UI[u][asked_UI[u]], scores_UI[u][asked_UI[u]]
        n_own, n_other = int(own.sum()), int((~own).sum())
        if n_own and n_other:
            ranks = rankdata(score)[own].sum() - n_own * (n_own + 1) / 2
            users.append((score, own))
            aucs.append(ranks / (n_own * n_other))
    if not users:
        raise FedlabError("the attack has no user with both kinds of pairs")
    rng, auc = np.random.default_rng(seed), np.array(aucs)
    resampled = auc[rng.integers(0, len(auc), (10 * N_BOOTSTRAP, len(auc)))].mean(axis=1)
    picks = [np.arange(len(users)), *rng.integers(0, len(users), (N_BOOTSTRAP, len(users)))]
    tprs = [_tpr([users[n] for n in pick]) for pick in picks]
    return pd.Series(
        {
            "auc": auc.mean(),
            "auc low": np.quantile(resampled, 0.025),
            "auc high": np.quantile(resampled, 0.975),
            "tpr@1%fpr": tprs[0],
            "tpr low": np.quantile(tprs[1:], 0.025),
            "tpr high": np.quantile(tprs[1:], 0.975),
            "users": len(auc),
        }
    )


def _tpr(users: Sequence[tuple[np.ndarray, np.ndarray]], at: float = 0.01) -> float:
    """The true positive rate where one in a hundred others is taken for own; ties at the threshold count in part."""
    score = np.concatenate([s for s, _ in users])
    own = np.concatenate([o for _, o in users])
    others = score[~own]
    allowed = at * len(others)
    nth = max(0, len(others) - 1 - int(allowed))
    threshold = np.sort(others)[nth]  # among many ties a partition takes eight times as long
    above, tied = (others > threshold).sum(), (others == threshold).sum()
    part = min(1.0, max(0.0, (allowed - above) / tied))
    mine = score[own]
    return float(((mine > threshold).sum() + part * (mine == threshold).sum()) / len(mine))
