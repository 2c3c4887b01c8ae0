"""Rankings with any number of targets a user, as random splits have them: ties in expectation, exact.

Ties part a user's ranking into groups whose order is open. Of a group with g items above it, t items in it and m
targets among them, place j (1 … t) holds a target with chance m / t. With h targets above the group, T targets in all
and every order as likely as any other:

    recall@k     Σ_groups m · min(max(k − g, 0), t) / t / T                      precision@k: by k in place of T
    NDCG@k       Σ_groups (m / t) Σ_{j: g + j ≤ k} 1 / log2(g + j + 1), by the same of an ideal ranking
    MAP@k        Σ_groups (m / t) Σ_{j: g + j ≤ k} (h + 1 + (j − 1)(m − 1)/(t − 1)) / (g + j), by min(T, k)
    HR@k         1 − C(t − m, r) / C(t, r),   r = min(max(k − g, 0), t), of the first group that holds a target
    MRR@k        Σ_{j: g + j ≤ k} C(t − j, m − 1) / C(t, m) / (g + j), of the same group

The last two ask the first target alone: it is at place j if the others of its group are behind it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaln

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation.ranking import _coverage, _cut_off, _lists, _seen_pairs, _table, recommended
from fedlab_mm.records import Dataset, Histories
from fedlab_mm.threads import lap

BLOCK = 20_000_000  # comparisons at once
METRICS = ("recall", "ndcg", "precision", "map", "mrr", "hr")


def evaluate_several(
    scores_UI: Any, targets: Any, seen: Any, k: int | Sequence[int] = (10, 20), ties: str = "expected"
) -> dict[str, float]:
    """Recall, NDCG, precision, MAP, MRR and HR at one cut-off or several, each the mean over users with a target.

    Args:
        scores_UI: a score for every user and item; higher is better.
        targets: each user's held-out items: histories, a bool [U, I], or a list for each user; who has none is not
            asked.
        seen: what to leave out of each user's ranking, in the same forms.
        k: cut-offs; ties: "expected", or "index", lower item number first.

    Raises:
        FedlabError: wrong shapes or types, a NaN score, a target among the seen, nobody with a target, k out of range.

    >>> evaluate_several([[0.9, 0.5, 0.5, 0.1]], [[1, 3]], [[0]], k=1)["recall@1"]
    0.25
    """
    users = evaluate_users_of_several(scores_UI, targets, seen, k, ties)
    if not len(users):
        raise FedlabError("no user has a target")
    return {str(name): float(users[name].mean()) for name in users if "@" in str(name)}


def evaluate_users_of_several(
    scores_UI: Any, targets: Any, seen: Any, k: int | Sequence[int] = (10, 20), ties: str = "expected"
) -> pd.DataFrame:
    """The same for each user that has a target; the index says who, the column "targets" how many."""
    scores_UI = _table(scores_UI).double().cpu()
    cuts = [_cut_off(cut, ties, scores_UI.shape[1]) for cut in ([k] if isinstance(k, int | np.integer) else k)]
    if not cuts:
        raise FedlabError("k is empty: name at least one cut-off")
    user_P, item_P = (x.numpy() for x in _seen_pairs(targets, *scores_UI.shape))
    pairs = np.unique(np.stack([user_P, item_P]), axis=1)
    user_P, item_P = pairs
    masked_UI = scores_UI.index_put(_seen_pairs(seen, *scores_UI.shape), scores_UI.new_tensor(-torch.inf))
    lost = torch.isneginf(masked_UI[user_P, item_P]).nonzero()[:1]
    if len(lost):
        user, item = int(user_P[lost[0]]), int(item_P[lost[0]])
        raise FedlabError(f"user {user}'s target {item} is among its seen items or scored -inf")
    groups = _groups(masked_UI, user_P, item_P, ties)
    asked, row_G = np.unique(groups["user"], return_inverse=True)
    total_U = np.bincount(row_G, weights=groups["m"]).astype(np.int64)
    table = {"targets": total_U}
    for cut in cuts:
        for name, value_U in _at(cut, groups, row_G, total_U).items():
            table[f"{name}@{cut}"] = value_U
    return pd.DataFrame(table, index=pd.Index(asked, name="user"))


def evaluate_blocks_of_several(
    blocks: Iterable[tuple[slice, torch.Tensor]], data: Dataset, split: str, k: int = 50, ties: str = "expected"
) -> tuple[dict[str, float], pd.DataFrame]:
    """Of scores that come a block of users at a time: the means over users with a target, training items masked, and
    each user's. "…/warm" is of users whose targets all have training interactions, "…/cold" of the others; on test
    coverage and popularity rank of what is recommended stand beside.

    Args:
        blocks: which users, one slice after the other, and their scores [C, I].
    """
    users, listed, targets = [], [], data.targets(split)
    cold = Histories.from_pairs(targets.users, (~data.warm_I)[targets.items], data.n_users)
    for block, scores_CI in blocks:
        who = np.arange(block.start, block.stop)
        seen = data.train.take(who)
        of_users = evaluate_users_of_several(scores_CI, targets.take(who), seen, k, ties)
        users.append(of_users.set_axis(who[of_users.index]))
        if split == "test":
            listed.append(_coverage(recommended(scores_CI, seen, k, ties)))
        lap(len(who))
    every = pd.concat(users).rename_axis("user")
    every["warm"] = [not cold[user].any() for user in every.index]
    result: dict[str, float] = {}
    for kind, chosen in (("", every), ("/warm", every[every["warm"]]), ("/cold", every[~every["warm"]])):
        if len(chosen):
            result |= {f"{name}{kind}": float(chosen[name].mean()) for name in every if "@" in str(name)}
    return result | (_lists(listed, k, data.popularity_I) if listed else {}), every


def _groups(masked_UI: torch.Tensor, user_P: np.ndarray, item_P: np.ndarray, ties: str) -> pd.DataFrame:
    """The groups of tied items that hold a target, best first for each user: user, g, t, m, h."""
    above_P, tied_P = np.empty(len(user_P), dtype=np.int64), np.empty(len(user_P), dtype=np.int64)
    block, number_I = max(1, BLOCK // masked_UI.shape[1]), torch.arange(masked_UI.shape[1])
    for start in range(0, len(user_P), block):
        part = slice(start, start + block)
        rows_PI, item_P1 = masked_UI[torch.from_numpy(user_P[part])], torch.from_numpy(item_P[part])[:, None]
        own_P1 = rows_PI.gather(1, item_P1)
        tied_PI = rows_PI == own_P1
        above_P[part], tied_P[part] = (rows_PI > own_P1).sum(dim=1), tied_PI.sum(dim=1)
        if ties == "index":
            above_P[part] += (tied_PI & (number_I < item_P1)).sum(dim=1).numpy()
            tied_P[part] = 1
    found = pd.DataFrame({"user": user_P, "g": above_P, "t": tied_P})
    groups = found.groupby(["user", "g", "t"]).size().rename("m").reset_index().sort_values(["user", "g"])
    groups["h"] = groups.groupby("user")["m"].cumsum() - groups["m"]
    return groups.reset_index(drop=True)


def _at(k: int, groups: pd.DataFrame, row_G: np.ndarray, total_U: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric at one cut-off, for each user."""
    g, t, m, h = (groups[c].to_numpy()[:, None].astype(float) for c in ("g", "t", "m", "h"))
    j_GK = np.arange(1, k + 1)[None, :]  # places within a group; no more than k of them can count
    place_GK = g + j_GK
    counts_GK = (j_GK <= t) & (place_GK <= k)

    def of_user(value_GK: np.ndarray) -> np.ndarray:
        return np.bincount(row_G, weights=(value_GK * counts_GK).sum(axis=1), minlength=len(total_U))

    share = m / t
    hits_U = of_user(np.broadcast_to(share, place_GK.shape))
    ideal_K = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
    before_GK = h + 1 + (j_GK - 1) * (m - 1) / np.maximum(t - 1, 1)
    first = h[:, 0] == 0
    places = np.minimum(np.maximum(k - g, 0), t)[:, 0]
    missed_G = np.exp(_log_choose((t - m)[:, 0], places) - _log_choose(t[:, 0], places))
    at_first_GK = np.exp(_log_choose(t - j_GK, m - 1) - _log_choose(t, m)) * first[:, None]
    return {
        "recall": hits_U / total_U,
        "ndcg": of_user(share / np.log2(place_GK + 1)) / ideal_K[np.minimum(total_U, k)],
        "precision": hits_U / k,
        "map": of_user(share * before_GK / place_GK) / np.minimum(total_U, k),
        "mrr": of_user(at_first_GK / place_GK),
        "hr": np.bincount(row_G, weights=(1 - missed_G) * first, minlength=len(total_U)),
    }


def _log_choose(n: np.ndarray, r: np.ndarray) -> np.ndarray:
    """log C(n, r), −∞ where r > n."""
    fits = r <= n
    n, r = np.where(fits, n, 0), np.where(fits, r, 0)
    return np.where(fits, gammaln(n + 1) - gammaln(r + 1) - gammaln(n - r + 1), -np.inf)
