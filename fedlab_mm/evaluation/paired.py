"""The paired test over users."""

import numpy as np
import pandas as pd

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation.clicks import numbers


def paired_test(difference_U: np.ndarray) -> pd.Series:
    """A mean difference over users: its 95 % bootstrap interval (percentiles) and the p-value of a two-sided sign-flip
    permutation test, 9,999 resamples each. With fewer than two users there is neither: both are NaN.

    Raises:
        FedlabError: a difference is NaN or infinite, or there is not one for each user.

    >>> paired_test(np.array([0.2, 0.1, 0.0, 0.3, 0.2, 0.1, 0.4, 0.1])).round(2).tolist()
    [0.18, 0.1, 0.26, 0.02, 8.0]
    """
    from scipy.stats import bootstrap, permutation_test

    difference_U = numbers("differences", difference_U)
    if not np.isfinite(difference_U).all():
        raise FedlabError(f"the difference of user {int(np.isfinite(difference_U).argmin())} is not finite")
    if len(difference_U) < 2:
        mean = float(np.mean(difference_U)) if len(difference_U) else np.nan
        return pd.Series({"difference": mean, "low": np.nan, "high": np.nan, "p": np.nan, "users": len(difference_U)})
    if not np.any(difference_U):
        return pd.Series({"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "users": len(difference_U)})
    sample, many = (difference_U,), {"n_resamples": 9999, "vectorized": True}
    interval = bootstrap(sample, np.mean, method="percentile", rng=np.random.default_rng(0), **many).confidence_interval
    test = permutation_test(sample, np.mean, permutation_type="samples", rng=np.random.default_rng(0), **many)
    values = {"difference": sample[0].mean(), "low": interval.low, "high": interval.high, "p": test.pvalue}
    return pd.Series({**values, "users": len(sample[0])})
