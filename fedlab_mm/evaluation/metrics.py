"""The metrics: a class each. One that is registered stands in every run, comparison and table of its task."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.registry import lookup, names, register


class Metric:
    """Of a ranking with one target: what a place is worth. A subclass registers as "metric"."""

    def gain(self, rank_R: Tensor) -> Tensor:
        """The worth of each place up to the cut-off, 1 the first: float64 [R]; what lies behind is worth nothing."""
        raise NotImplementedError


@register("metric", "hr")
class HitRate(Metric):
    """HR@k: is the target among the first k?"""

    def gain(self, rank_R: Tensor) -> Tensor:
        return torch.ones_like(rank_R)


@register("metric", "ndcg")
class NDCG(Metric):
    """NDCG@k: 1 / log2(rank + 1). With one relevant item the ideal DCG is 1."""

    def gain(self, rank_R: Tensor) -> Tensor:
        return 1 / torch.log2(rank_R + 1)


class ClickMetric:
    """Of predicted clicks. A subclass registers as "click metric"."""

    def of(self, logit_N: np.ndarray, click_N: np.ndarray, user_N: np.ndarray) -> float:
        """
        Args:
            logit_N: of a click, one for each showing; click_N: 0 or 1; user_N: whose showing it is.
        """
        raise NotImplementedError


@register("click metric", "auc")
class AUC(ClickMetric):
    """Pooled over users."""

    def of(self, logit_N: np.ndarray, click_N: np.ndarray, user_N: np.ndarray) -> float:
        return auc_of(logit_N, click_N)


@register("click metric", "logloss")
class LogLoss(ClickMetric):
    """The mean binary cross-entropy."""

    def of(self, logit_N: np.ndarray, click_N: np.ndarray, user_N: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(click_N > 0, -logit_N, logit_N)).mean())


@register("click metric", "gauc")
class GroupedAUC(ClickMetric):
    """The mean over users of each user's own AUC, of those who have both a click and none, weighted by their showings;
    NaN where nobody has."""

    def of(self, logit_N: np.ndarray, click_N: np.ndarray, user_N: np.ndarray) -> float:
        table = pd.DataFrame({"logit": logit_N, "click": click_N, "user": user_N})
        of_user = table.groupby("user")["click"].agg(["mean", "size"])
        both = of_user[(of_user["mean"] > 0) & (of_user["mean"] < 1)]
        asked = table[table["user"].isin(both.index)]
        own = [auc_of(t["logit"].to_numpy(), t["click"].to_numpy()) for _, t in asked.groupby("user")]
        return float(np.average(own, weights=both["size"])) if len(both) else float("nan")


def in_order(family: str, first: tuple[str, ...]) -> dict[str, Any]:
    """The members of a family of metrics by name, the package's own in the order in which they are told."""
    every = names(family)
    return {name: lookup(family, name)() for name in (*first, *(n for n in every if n not in first))}


def auc_of(score_N: np.ndarray, click_N: np.ndarray) -> float:
    """The chance that a clicked showing stands above one that was not, ties counted half: NaN without both kinds."""
    from scipy.stats import rankdata

    clicked = click_N > 0
    n_yes, n_no = int(clicked.sum()), int((~clicked).sum())
    if not n_yes or not n_no:
        return float("nan")
    return float((rankdata(score_N)[clicked].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))
