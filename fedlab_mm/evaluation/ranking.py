"""Full ranking under leave-one-out: HR@k and NDCG@k, with a rule for ties.

A scorer that gives many items one score leaves their order open, and an implementation that happens to put low item
numbers first then reports what the numbering of the items gives away. With ties in expectation, every order of the tied
items is as likely as any other. For a target with g items above it and t items at its score (itself among them), its
rank is uniform on g + 1 … g + t, so

    HR@k   = min(max(k − g, 0), t) / t
    NDCG@k = (1 / t) · Σ_{r = g + 1}^{min(g + t, k)} 1 / log2(r + 1),

exact, without drawing anything; and so for every metric that says what a place is worth (`metrics.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.evaluation.metrics import Metric, in_order
from fedlab_mm.records import Dataset, Histories
from fedlab_mm.threads import lap

TIES = ("expected", "index")


def evaluate(
    scores_UI: Any,
    target_U: Any,
    seen: Any,
    k: int = 50,
    ties: str = "expected",
    warm_I: Any = None,
    popularity_I: Any = None,
) -> dict[str, float]:
    """Mean HR@k and NDCG@k over users.

    Args:
        scores_UI: a score for every user and item, tensor, array, lists, or a frame labelled by their numbers; of any
            real type; higher is better.
        target_U: each user's held-out item.
        seen: what to leave out of each user's ranking: `data.train`, a bool [U, I], or a list of item lists.
        k: cut-off, at most the number of items.
        ties: "expected" over all orders of tied items, or "index", lower item number first, which is how the papers'
            released code breaks them.
        warm_I: bool [I], true for items with training interactions. If given, "…/warm" and "…/cold" give the means over
            targets of either kind, where there are any.
        popularity_I: training interactions of each item. If given, "coverage@k", the share of all items that anyone is
            recommended, and "poprank@k", the mean popularity rank of what is recommended (1 is the most popular item;
            items that are equally popular share their mean rank). Ties are taken in expectation here too.

    Raises:
        FedlabError: wrong shapes or types, a NaN score, a target among the seen, an unknown rule for ties, k out of
            range or no whole number.

    >>> evaluate([[0.9, 0.5, 0.5, 0.1]], target_U=[2], seen=[[0]], k=1)
    {'hr@1': 0.5, 'ndcg@1': 0.5}
    >>> evaluate([[0.9, 0.5, 0.5, 0.1]], target_U=[2], seen=[[0]], k=1, ties="index")
    {'hr@1': 0.0, 'ndcg@1': 0.0}
    """
    scores_UI = _table(scores_UI)
    for name, value in (("warm_I", warm_I), ("popularity_I", popularity_I)):
        if value is not None and np.shape(value) != (scores_UI.shape[1],):
            raise FedlabError(f"{name} has shape {np.shape(value)}: one value for each of {scores_UI.shape[1]} items")
    users = evaluate_users(scores_UI, target_U, seen, k, ties)
    result = _means(users, k, warm_I)
    if popularity_I is not None:
        result |= _lists([_coverage(recommended(scores_UI, seen, k, ties))], k, popularity_I)
    return result


def evaluate_blocks(
    blocks: Iterable[tuple[slice, Tensor]], data: Dataset, split: str, k: int = 50, ties: str = "expected"
) -> tuple[dict[str, float], pd.DataFrame]:
    """`evaluate_split` and `evaluate_users` of scores that come a block of users at a time, so that they need never be
    held at once. A user without a target of this split is left out; the table's index says who each row is.

    Args:
        blocks: which users, one slice after the other, and their scores [C, I].
    """
    users, listed, target_U = [], [], data.target_U(split)
    for block, scores_CI in blocks:
        who = np.arange(block.start, block.stop)
        asked = target_U[block] >= 0
        some_CI = scores_CI if asked.all() else scores_CI[torch.from_numpy(asked)]
        of_users = evaluate_users(some_CI, target_U[block][asked], data.train.take(who[asked]), k, ties)
        users.append(of_users.set_axis(who[asked]))
        if split == "test":
            listed.append(_coverage(recommended(scores_CI, data.train.take(who), k, ties)))
        lap(len(who))
    every = pd.concat(users)
    return _means(every, k, data.warm_I) | (_lists(listed, k, data.popularity_I) if listed else {}), every


def _means(users: pd.DataFrame, k: int, warm_I: Any) -> dict[str, float]:
    metrics = [f"{name}@{k}" for name in ranking_metrics()]
    result = {metric: float(users[metric].mean()) for metric in metrics}
    if warm_I is not None:
        warm_U = np.asarray(warm_I, dtype=bool)[users["target"]]
        for kind, chosen_U in (("warm", warm_U), ("cold", ~warm_U)):
            for metric in metrics:
                if chosen_U.any():
                    result[f"{metric}/{kind}"] = float(users[metric][chosen_U].mean())
    return result


def _coverage(listed_UI: Tensor) -> Tensor:
    """For each item the chance that no user is recommended it, and how many are in the mean: [2, I]."""
    return torch.stack([(1 - listed_UI).prod(dim=0), listed_UI.sum(dim=0)])


def _lists(blocks: Iterable[Tensor], k: int, popularity_I: Any) -> dict[str, float]:
    """Coverage and popularity rank of what is recommended, from `_coverage` of each block of users."""
    from scipy.stats import rankdata

    missed_I, listed_I = (torch.stack(list(x)) for x in zip(*blocks, strict=True))
    rank_I = torch.from_numpy(rankdata(-np.asarray(popularity_I))).to(listed_I)
    total_I = listed_I.sum(dim=0)
    return {
        f"coverage@{k}": float((1 - missed_I.prod(dim=0)).mean()),
        f"poprank@{k}": float((total_I @ rank_I) / total_I.sum()),
    }


def recommended(scores_UI: Any, seen: Any, k: int, ties: str = "expected") -> Tensor:
    """The chance of each item to be among a user's first k, seen items left out: float64 [U, I]. It is 0 or 1, but for
    items tied at the end of the list, which share the places left.

    Raises:
        FedlabError: as `evaluate`.

    >>> recommended([[0.9, 0.5, 0.5, 0.1]], [[0]], k=1)
    tensor([[0.0000, 0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    scores_UI = _table(scores_UI)
    k = _cut_off(k, ties, scores_UI.shape[1])
    rows, columns = (x.to(scores_UI.device) for x in _seen_pairs(seen, *scores_UI.shape))
    scores_UI = scores_UI.double().index_put((rows, columns), scores_UI.new_tensor(-torch.inf, dtype=torch.float64))
    if ties == "index":
        order = torch.argsort(scores_UI, dim=1, descending=True, stable=True)[:, :k]
        listed_UI = torch.zeros_like(scores_UI).scatter_(1, order, 1.0)
    else:
        last_U1 = torch.topk(scores_UI, k, dim=1)[0][:, -1:]
        above_UI, tied_UI = scores_UI > last_U1, scores_UI == last_U1
        left_U1 = k - above_UI.sum(dim=1, keepdim=True)
        listed_UI = above_UI.double() + tied_UI * left_U1 / tied_UI.sum(dim=1, keepdim=True)
    return listed_UI.masked_fill(torch.isneginf(scores_UI), 0)


def evaluate_users(scores_UI: Any, target_U: Any, seen: Any, k: int = 50, ties: str = "expected") -> pd.DataFrame:
    """The same for each user: target, above (items above it), tied (items at its score, itself included), HR, NDCG.

    >>> evaluate_users([[3, 2, 1], [1, 1, 1]], [0, 2], [[], []], k=2).round(3)
       target  above  tied   hr@2  ndcg@2
    0       0      0     1  1.000   1.000
    1       2      0     3  0.667   0.544
    """
    scores_UI = _table(scores_UI)
    n_users, n_items = scores_UI.shape
    k = _cut_off(k, ties, n_items)
    target_U1 = torch.from_numpy(_item_numbers(target_U, "a target")).to(scores_UI.device)[:, None]
    if len(target_U1) != n_users:
        raise FedlabError(f"{len(target_U1)} targets for {n_users} rows of scores: one each is needed")
    if ((target_U1 < 0) | (target_U1 >= n_items)).any():
        raise FedlabError(f"a target lies outside the items 0 to {n_items - 1}")
    rows, columns = (x.to(scores_UI.device) for x in _seen_pairs(seen, n_users, n_items))
    scores_UI = scores_UI.index_put((rows, columns), scores_UI.new_tensor(-torch.inf))
    target_scores_U1 = scores_UI.gather(1, target_U1)
    if torch.isneginf(target_scores_U1).any():
        user = int(torch.isneginf(target_scores_U1).nonzero()[0, 0])
        raise FedlabError(f"user {user}'s target {int(target_U1[user])} is among its seen items or scored -inf")

    above_U = _count(torch.gt, scores_UI, target_scores_U1)
    tied_U = _count(torch.eq, scores_UI, target_scores_U1)
    if ties == "index":
        above_U += ((scores_UI == target_scores_U1) & (torch.arange(n_items, device=scores_UI.device) < target_U1)).sum(
            dim=1
        )
        tied_U = torch.ones_like(tied_U)
    hits_U = torch.minimum((k - above_U).clamp(min=0), tied_U)
    users = {"target": target_U1[:, 0], "above": above_U, "tied": tied_U}
    for name, metric in ranking_metrics().items():
        gain_R = metric.gain(torch.arange(1, k + 1, dtype=torch.float64))
        upto_R = torch.cat([torch.zeros(1, dtype=torch.float64), gain_R]).cumsum(0).to(scores_UI.device)
        gains_U = upto_R[above_U.clamp(max=k) + hits_U] - upto_R[above_U.clamp(max=k)]
        users[f"{name}@{k}"] = gains_U / tied_U
    return pd.DataFrame({name: of_users.cpu().numpy() for name, of_users in users.items()})


def _count(compare: Callable[..., Tensor], scores_UI: Tensor, target_U1: Tensor) -> Tensor:
    """For how many items of each user the comparison holds. (Adding floats takes a sixth of the time of counting
    booleans.)"""
    exact = scores_UI.dtype if scores_UI.shape[1] <= 2**24 else torch.float64  # single precision counts to 16 million
    return compare(scores_UI, target_U1, out=torch.empty_like(scores_UI, dtype=exact)).sum(dim=1).long()


def _table(scores_UI: Any) -> Tensor:
    """Scores in single or double precision, in which all of them keep their order and their ties.

    >>> _table(np.array([[2**53, 2**53 + 1, -7]]))
    tensor([[1., 2., 0.]], dtype=torch.float64)
    """
    if isinstance(scores_UI, pd.DataFrame):
        if not all(np.array_equal(labels, np.arange(len(labels))) for labels in scores_UI.axes):
            raise FedlabError(
                "scores_UI is a frame whose labels are not 0, 1, 2, …: bring its rows in the order of users and its "
                "columns in the order of items, and pass scores.to_numpy()"
            )
        scores_UI = scores_UI.to_numpy(copy=True)
    try:  # through numpy, which reads lists in double precision
        of_numpy = None if isinstance(scores_UI, Tensor) else np.require(scores_UI, requirements=["C", "W"])
        table = scores_UI.detach() if of_numpy is None else torch.from_numpy(of_numpy)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FedlabError(f"scores_UI is no table of numbers: {error}") from None
    if table.ndim != 2:
        raise FedlabError(
            f"scores_UI has shape {tuple(table.shape)}: a row of item scores for each user is needed, [users, items]; "
            "of one user that is scores[None]"
        )
    if table.is_complex():
        raise FedlabError("scores_UI holds complex numbers, which have no order")
    if not table.is_floating_point():
        if table.dtype.itemsize == 8 and table.numel() and (table.cpu().double().abs() >= 2**53).any():
            ranks = np.unique(table.cpu().numpy(), return_inverse=True)[1].reshape(table.shape)
            return torch.from_numpy(ranks).to(table.device).double()
        return table.double()
    table = table if table.dtype in (torch.float32, torch.float64) else table.float()
    if not torch.isfinite(table.sum()) and (nan_U := torch.isnan(table).any(dim=1)).any():  # a sum is the quicker look
        raise FedlabError(f"scores of user {int(nan_U.nonzero()[0])} hold a NaN")
    return table


def _cut_off(k: Any, ties: str, n_items: int) -> int:
    k = whole_number("k", k)
    if k > n_items:
        raise FedlabError(f"k={k}: must lie between 1 and the number of items, {n_items}")
    if ties not in TIES:
        raise FedlabError(f"unknown ties '{ties}': there are: {', '.join(TIES)}")
    return k


def _item_numbers(items: Any, what: str) -> np.ndarray:
    """One number for each entry, int64 [N]; an empty list has none."""
    number_N = np.asarray(items.cpu() if isinstance(items, Tensor) else items)
    if number_N.ndim != 1 or (len(number_N) and number_N.dtype.kind not in "iu"):
        raise FedlabError(f"{what}: one whole number an item is needed, not {number_N.dtype} {number_N.shape}")
    return number_N.astype(np.int64)


def evaluate_split(
    scores_UI: Tensor, data: Dataset, split: str, k: int = 50, ties: str = "expected"
) -> dict[str, float]:
    """`evaluate` on a dataset's "valid" or "test" targets, training items masked, warm and cold targets apart; on test
    also coverage and popularity rank."""
    return evaluate_blocks([(slice(0, data.n_users), _table(scores_UI))], data, split, k, ties)[0]


def _seen_pairs(seen: Any, n_users: int, n_items: int) -> tuple[Tensor, Tensor]:
    if isinstance(seen, Histories):
        users, items = seen.users, seen.items
    elif isinstance(seen, (np.ndarray, Tensor, pd.DataFrame)) and np.ndim(seen) == 2:
        mask_UI = np.asarray(seen.cpu() if isinstance(seen, Tensor) else seen)
        if mask_UI.shape != (n_users, n_items) or not np.isin(mask_UI, (0, 1)).all():
            raise FedlabError(
                f"seen does not fit: as a table {mask_UI.shape} it is read as a mask, which is [{n_users}, {n_items}], "
                "true or false; items by their numbers are a list for each user"
            )
        users, items = np.nonzero(mask_UI)
    else:
        if not isinstance(seen, Sequence | np.ndarray | Tensor):
            raise FedlabError(f"seen is a {type(seen).__name__}: histories, a mask or a list for each user are needed")
        lists = [_item_numbers(items, f"seen of user {user}") for user, items in enumerate(seen)]
        users = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
        items = np.concatenate([np.zeros(0, dtype=np.int64), *lists])
    if len(seen) != n_users or (len(items) and not 0 <= items.min() <= items.max() < n_items):
        raise FedlabError(f"seen does not fit: it needs {n_users} users and items from 0 to {n_items - 1}")
    return torch.from_numpy(users), torch.from_numpy(items)


def ranking_metrics() -> dict[str, Metric]:
    """The registered metrics by name."""
    return in_order("metric", ("hr", "ndcg"))
