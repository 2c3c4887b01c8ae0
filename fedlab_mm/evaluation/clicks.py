"""Of predicted clicks: AUC, LogLoss and GAUC, and the paired test of AUC."""

import math
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.evaluation.metrics import ClickMetric, auc_of, in_order


def evaluate_clicks(logits: Any, clicks: Any, users: Any) -> dict[str, float]:
    """Every registered metric of predicted clicks: auc and logloss, pooled over users; gauc, the mean over users of
    each user's own AUC, of those who have both a click and none, weighted by their showings; NaN where nobody has.

    Args:
        logits: of a click, one for each showing; clicks: 0 or 1; users: whose showing it is.

    Raises:
        FedlabError: a logit is NaN, a click neither 0 nor 1, or they are not one each for every showing.

    >>> {k: round(v, 3) for k, v in evaluate_clicks([2.0, -1.0, 0.0, 1.0], [1, 0, 1, 0], [0, 0, 1, 1]).items()}
    {'auc': 0.75, 'logloss': 0.612, 'gauc': 0.5}
    """
    logit_N, click_N = numbers("evaluate_clicks: logits", logits), numbers("evaluate_clicks: clicks", clicks)
    user_N = np.asarray(users.cpu() if isinstance(users, Tensor) else users)
    if not logit_N.shape == click_N.shape == user_N.shape:
        shapes = f"{logit_N.shape}, {click_N.shape} and {user_N.shape}"
        raise FedlabError(f"evaluate_clicks: logits, clicks and users have shapes {shapes}: one each for every showing")
    if np.isnan(logit_N).any():
        raise FedlabError(f"evaluate_clicks: the logit of showing {int(np.isnan(logit_N).argmax())} is NaN")
    if not np.isin(click_N, (0, 1)).all():
        row = int((~np.isin(click_N, (0, 1))).argmax())
        raise FedlabError(f"evaluate_clicks: the click of showing {row} is {click_N[row]}: must be 0 or 1")
    metrics: dict[str, ClickMetric] = in_order("click metric", ("auc", "logloss", "gauc"))
    return {name: metric.of(logit_N, click_N, user_N) for name, metric in metrics.items()}


def numbers(name: str, values: Any) -> np.ndarray:
    """One number each in double precision, [N]: in half, means and logarithms would be rounded to three digits."""
    try:
        number_N = values.detach().cpu().double() if isinstance(values, Tensor) else np.asarray(values, dtype=float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FedlabError(f"{name} are no numbers: {error}") from None
    if number_N.ndim != 1:
        raise FedlabError(f"{name} have shape {tuple(number_N.shape)}: one number each is needed")
    return np.asarray(number_N)


def paired_auc(a: pd.DataFrame, b: pd.DataFrame, resamples: int = 1999) -> pd.Series:
    """A difference in AUC on the same showings, with users as what is drawn.

    AUC is the mean over seeds, as in the table. Predictions count by their rank, so that models of unlike scale can be
    mixed: the interval is of users drawn with replacement, p of users whose predictions are exchanged by a coin.

    Args:
        a, b: columns user, click, logit, seed; the same showings in the same order for every seed. Where one has fewer
            seeds, each stands beside the other's as often.

    Returns:
        difference (a − b), low and high (95 % bootstrap interval), p (two-sided), users.

    Raises:
        FedlabError: the two, or two seeds, do not predict the same showings; a logit is NaN; a column is not there.
    """
    from scipy.stats import rankdata

    whole_number("resamples", resamples)
    lacking = sorted({"user", "click", "logit", "seed"} - (set(a.columns) & set(b.columns)))
    if lacking or not len(a) or not len(b):
        raise FedlabError(f"paired_auc needs rows with user, click, logit and seed; missing: {lacking or 'the rows'}")
    for t in (a, b):
        if t["logit"].isna().any():
            raise FedlabError(f"paired_auc: the logit of row {int(t['logit'].isna().to_numpy().argmax())} is NaN")
    runs_a, runs_b = ([run for _, run in t.groupby("seed", dropna=False)] for t in (a, b))
    click_N, user_N = (runs_a[0][c].to_numpy() for c in ("click", "user"))
    for run in runs_a + runs_b:
        if not (np.array_equal(click_N, run["click"]) and np.array_equal(user_N, run["user"])):
            raise FedlabError("the two rows do not predict the same showings, so they cannot be paired")
    of_a, of_b = ([rankdata(run["logit"]) for run in runs] for runs in (runs_a, runs_b))
    n_seeds = math.lcm(len(of_a), len(of_b))
    rank_aSN, rank_bSN = (np.array([of[s % len(of)] for s in range(n_seeds)]) for of in (of_a, of_b))
    _, who_N = np.unique(user_N, return_inverse=True)
    n_users, rng = int(who_N.max()) + 1, np.random.default_rng(0)
    showings = [np.flatnonzero(who_N == u) for u in range(n_users)]

    def gain(x_SN: np.ndarray, y_SN: np.ndarray, label_N: np.ndarray) -> float:
        return float(np.mean([auc_of(x, label_N) - auc_of(y, label_N) for x, y in zip(x_SN, y_SN, strict=True)]))

    difference = gain(rank_aSN, rank_bSN, click_N)
    drawn, exchanged = [], []
    for _ in range(resamples):
        rows = np.concatenate([showings[u] for u in rng.integers(0, n_users, n_users)])
        drawn.append(gain(rank_aSN[:, rows], rank_bSN[:, rows], click_N[rows]))
        swap_N = (rng.random(n_users) < 0.5)[who_N]
        mixed_SN, rest_SN = (np.where(s, rank_bSN, rank_aSN) for s in (swap_N, ~swap_N))
        exchanged.append(gain(mixed_SN, rest_SN, click_N))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    p = (1 + (np.abs(exchanged) >= abs(difference) - 1e-12).sum()) / (resamples + 1)
    return pd.Series({"difference": difference, "low": low, "high": high, "p": p, "users": n_users})
