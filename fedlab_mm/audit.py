"""What a split gives away before anything is learned: leaks, and how far a rule that knows nothing of taste gets.

A model's figure means little where a rule that never looks at a user's history comes near it. On KU, for example, 16 of
560 items have no training interaction and yet are the target of 88 of 204 users: putting these first and the rest by
popularity finds 54 % of all targets within 50.

`audit_tables` asks the rest of what one should know before believing a figure: what ties decide, what simple
recommenders get on targets seen and unseen in training, and how small a difference so few users can show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation import TIES, evaluate_users
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup

BLOCK = 1000  # users ranked at a time
RESAMPLES = 9999
BASELINES = ("popularity", "itemknn", "ease")
PAIRS = (("ease", "itemknn"), ("ease", "popularity"))  # a pair that ranks alike, and one that does not


def audit(data: Dataset, k: int = 50, split: str = "test") -> pd.DataFrame:
    """What a split gives away, a row for each way.

    Args:
        k: cut-off of the trivial rules; split: "test" or "valid".

    Returns:
        A row for each, with n, of, and share = n / of:
        "repeated pairs": rows left out because the pair stood there before;
        "targets in another user's future": targets of this split after which somebody else's training interaction with
        the same item took place: a model trained on it knows what was not yet known;
        "training after the first target": training interactions later than the earliest target;
        "targets without training interaction": cold ones, which no model on IDs can tell from each other;
        "targets chosen by id at equal times", where there are any: their user did something else at the same time, and
        of the two the item's id said which came last;
        "first k by RULE": targets among the first k by a rule that looks at no user's taste, ties in expectation.

    Raises:
        FedlabError: k out of range, an unknown split.

    >>> from fedlab_mm.registry import lookup
    >>> toy = lookup("dataset", "toy").load()
    >>> audit(toy).loc["targets without training interaction", ["n", "of"]].astype(int).tolist()
    [26, 300]
    """
    _check(data, split)
    log = data.interactions
    train, held = log[log["split"] == "train"], log[log["split"] == split]
    last_seen = train.groupby("item")["timestamp"].max().reindex(held["item"]).to_numpy()
    repeated = data.dropped.get("repeated pairs", 0)
    rows: dict[str, tuple[float, int]] = {
        "repeated pairs": (repeated, len(log) + repeated),
        "training after the first target": (int((train["timestamp"] > held["timestamp"].min()).sum()), len(train)),
        "targets in another user's future": (int((last_seen > held["timestamp"].to_numpy()).sum()), len(held)),
        "targets without training interaction": (data.n_cold(split), len(held)),
    }
    if data.tied.get(split):
        rows["targets chosen by id at equal times"] = (data.tied[split], len(held))
    for rule, scores_I in trivial_rules(data).items():
        found = _users(torch.tensor(scores_I).expand(data.n_users, -1), data, split, k, "expected")[f"hr@{k}"]
        rows[f"first {k} by {rule}"] = (float(found.sum()), len(held))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["n", "of"]).astype({"n": float, "of": int})
    return table.assign(n=[int(n) if n == int(n) else round(n, 1) for n in table["n"]], share=table["n"] / table["of"])


def trivial_rules(data: Dataset) -> Mapping[str, np.ndarray]:
    """Rules that give every user the same ranking: name -> score of every item. Recency is the time of an item's last
    training interaction."""
    train = data.interactions[data.interactions["split"] == "train"]
    popularity_I = data.popularity_I.astype(float)
    latest = train.groupby("item")["timestamp"].max().reindex(range(data.n_items))
    newest_I = latest.fillna(train["timestamp"].min() - 1).to_numpy(dtype=float)
    return {
        "chance": np.zeros(data.n_items),
        "popularity": popularity_I,
        "recency": newest_I,
        "untrained first, then popularity": np.where(popularity_I == 0, popularity_I.max() + 1, popularity_I),
        "low item number": -np.arange(data.n_items, dtype=float),
    }


def audit_tables(
    data: Dataset, k: int = 50, split: str = "test", sizes: Sequence[int] = (500, 1000, 2000, 5000, 10_000)
) -> dict[str, pd.DataFrame]:
    """All that one should know of a benchmark before believing a figure on it. Users are what is drawn throughout.

    Each table is plain, its first column the index: `to_csv`, and `read_csv(index_col=0)`, keep it.

    Args:
        k: cut-off; split: "test" or "valid"; sizes: numbers of users for "power", beside the data's own.

    Returns:
        "ties": a row for a constant scorer and each baseline: HR@k and NDCG@k with ties in expectation and with the
            lower item number first; tied, the share of users whose target shares its score with another item.
        "rules": what `audit` returns.
        "numbers": along the item numbers, in blocks of k: items, untrained ones, share of targets, of training
            interactions, and of a user's training interactions, mean over users. Where they part, a numbering tells
            something: of targets, or of users.
        "activity": a row for each scorer, rule for ties, metric and group of users by their number of training
            interactions (quarters, as far as equals allow): users, training, the share of all training interactions
            that they hold, cold, the share of their targets that are unseen in training, mean, low, high. A fall or
            rise that a constant shows too is not a model's.
        "baselines": a row for each scorer, targets ("all", "warm", "cold") and metric: users, mean, and low and high,
            its 95 % bootstrap interval (one of no width says that all users agree, not that nothing is uncertain).
        "power": for each metric the smallest difference of two means that a two-sided test at 5 % finds with a chance
            of 80 %, δ = (z_0.975 + z_0.8) · sd / √users: compared, sd, users, detectable. Compared are two baselines on
            the same users, sd that of a user's difference; or "figures only", where no user's difference is known: two
            scorers, each as widely spread as EASE, taken as independent. To find δ takes users · (detectable / δ)².

    Raises:
        FedlabError: k out of range, an unknown split, fewer than two users with a target.

    >>> tables = audit_tables(lookup("dataset", "toy").load())
    >>> tables["ties"].loc["constant"].round(2).tolist()
    [0.11, 0.14, 0.03, 0.04, 1.0]
    >>> list(tables)
    ['ties', 'rules', 'numbers', 'activity', 'baselines', 'power']
    """
    _check(data, split)
    if (data.target_U(split) >= 0).sum() < 2:
        raise FedlabError(f"{data.name} has fewer than two users with a {split} target")
    scores = {"constant": torch.zeros(1).expand(data.n_users, data.n_items)}
    scores |= {name: lookup("baseline", name)().scores(data) for name in BASELINES}
    users = {ties: {n: _users(s, data, split, k, ties) for n, s in scores.items()} for ties in TIES}
    expected = users["expected"]
    return {
        "ties": _ties(users, k),
        "rules": audit(data, k, split).rename_axis("what"),
        "numbers": _numbers(data, k, split),
        "activity": _activity(users, data, k),
        "baselines": _baselines(expected, data.warm_I, k),
        "power": _power(expected, sizes, k),
    }


def _check(data: Dataset, split: str) -> None:
    if not isinstance(data, Dataset):
        raise FedlabError(f"audit needs a Dataset, whose items are ranked; {data.name} is a {type(data).__name__}")
    if split not in ("valid", "test"):
        raise FedlabError(f"unknown split '{split}': there are: valid, test")


def _users(scores_UI: torch.Tensor, data: Dataset, split: str, k: int, ties: str) -> pd.DataFrame:
    """`evaluate_users` of those who have a target, a block at a time."""
    target_U = data.target_U(split)
    asked = np.flatnonzero(target_U >= 0)
    blocks = [asked[start : start + BLOCK] for start in range(0, len(asked), BLOCK)]
    tables = [evaluate_users(scores_UI[u], target_U[u], data.train.take(u), k, ties) for u in blocks]
    return pd.concat(tables).set_axis(asked)


def _ties(users: Mapping[str, Mapping[str, pd.DataFrame]], k: int) -> pd.DataFrame:
    columns = [(metric, ties) for metric in (f"hr@{k}", f"ndcg@{k}") for ties in TIES]
    rows = {n: {f"{m} {ties}": users[ties][n][m].mean() for m, ties in columns} for n in users["expected"]}
    tied = [(of_users["tied"] > 1).mean() for of_users in users["expected"].values()]
    return pd.DataFrame.from_dict(rows, orient="index").assign(tied=tied).rename_axis("scorer")


def _numbers(data: Dataset, k: int, split: str) -> pd.DataFrame:
    target_U = data.target_U(split)
    block_I = np.arange(data.n_items) // k
    count = {
        "items": np.bincount(block_I),
        "untrained": np.bincount(block_I[~data.warm_I], minlength=block_I[-1] + 1),
        "targets": np.bincount(block_I[target_U[target_U >= 0]], minlength=block_I[-1] + 1),
        "training": np.bincount(block_I, weights=data.popularity_I),
        "of a user": np.bincount(block_I[data.train.items], 1 / data.train.lengths[data.train.users], block_I[-1] + 1),
    }
    table = pd.DataFrame(count, index=pd.Index(np.unique(block_I) * k, name="from number"))
    shares = table[["targets", "training", "of a user"]]
    return table[["items", "untrained"]].join(shares / shares.sum())


def _activity(users: Mapping[str, Mapping[str, pd.DataFrame]], data: Dataset, k: int) -> pd.DataFrame:
    anyone = users["expected"]["constant"]
    group_U = by_activity(data).iloc[anyone.index].to_numpy()
    length_U = pd.Series(data.train.lengths[anyone.index])
    held = length_U.groupby(group_U, observed=True).sum() / data.train.lengths.sum()
    cold = (~pd.Series(data.warm_I[anyone["target"]])).groupby(group_U, observed=True).mean()
    shares = {"training": held.to_dict(), "cold": cold.to_dict()}
    tables = []
    for ties, of_scorers in users.items():
        for metric in (f"hr@{k}", f"ndcg@{k}"):
            values = pd.DataFrame({name: of_users[metric] for name, of_users in of_scorers.items()})
            table = group_means(values, group_U).assign(ties=ties, metric=metric)
            tables.append(table.assign(**{n: [of[group] for group in table["group"]] for n, of in shares.items()}))
    table = pd.concat(tables).rename(columns={"group": "training items"}).set_index("scorer")
    return table[["ties", "metric", "training items", "users", "training", "cold", "mean", "low", "high"]]


def by_activity(data: Dataset, parts: int = 4) -> pd.Series:
    """Each user's group by its number of training interactions, cut at quantiles: an ordered category, named by the
    least and the most of them. Users with equally many are never parted, so groups may be fewer, and of unequal size.

    >>> by_activity(lookup("dataset", "toy").load()).value_counts(sort=False).to_dict()
    {'6–12': 76, '13–19': 79, '20–30': 75, '31–106': 70}
    """
    length_U = data.train.lengths
    cuts = np.quantile(length_U, np.arange(1, parts) / parts)
    _, part_U = np.unique(np.searchsorted(cuts, length_U), return_inverse=True)
    groups = [length_U[part_U == part] for part in range(part_U.max() + 1)]
    names = [f"{g.min()}–{g.max()}" if g.min() < g.max() else f"{g.min()}" for g in groups]
    group_U = pd.Categorical([names[part] for part in part_U], categories=names, ordered=True)
    return pd.Series(group_U, name="training items").rename_axis("user")


def _baselines(expected: Mapping[str, pd.DataFrame], warm_I: np.ndarray, k: int) -> pd.DataFrame:
    warm_U = warm_I[next(iter(expected.values()))["target"]]
    some = {"all": np.ones_like(warm_U), "warm": warm_U, "cold": ~warm_U}
    tables = []
    for targets, chosen_U in some.items():
        for metric in (f"hr@{k}", f"ndcg@{k}"):
            values = pd.DataFrame({name: of_users[metric][chosen_U] for name, of_users in expected.items()})
            tables.append(group_means(values, np.full(len(values), targets)).assign(metric=metric))
    table = pd.concat(tables).rename(columns={"group": "targets"}).set_index("scorer")
    return table[["targets", "metric", "users", "mean", "low", "high"]]


def group_means(values: pd.DataFrame, group_U: Any) -> pd.DataFrame:
    """Means by group of users, none without its number of users and its 95 % bootstrap interval.

    Args:
        values: a row for each user, a column for each scorer; group_U: each user's group, of any sort. Categories keep
            their order.

    Returns:
        scorer, group, users, mean, low, high; no interval for a single user.

    >>> hits = pd.DataFrame({"a": [1, 0, 1, 1, 0, 1], "b": [0, 0, 0, 1, 1, 1]})
    >>> group_means(hits, ["few", "few", "few", "many", "many", "many"]).round(2)
      scorer group  users  mean  low  high
    0      a   few      3  0.67  0.0   1.0
    1      a  many      3  0.67  0.0   1.0
    2      b   few      3  0.00  0.0   0.0
    3      b  many      3  1.00  1.0   1.0
    """
    group = pd.Series(group_U.array if isinstance(group_U, pd.Series) else group_U, index=values.index)
    groups = values.groupby(group, observed=True)
    rows = [
        (scorer, group, len(part), part[scorer].mean(), *_interval(part[scorer].to_numpy(float)))
        for scorer in values
        for group, part in groups
    ]
    return pd.DataFrame(rows, columns=["scorer", "group", "users", "mean", "low", "high"])


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % for the mean, by percentiles of bootstrap samples; none for a single value."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return np.nan, np.nan
    few = max(1, 10_000_000 // len(values))  # samples at a time
    how = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True, "batch": few}
    low, high = bootstrap((values,), np.mean, rng=np.random.default_rng(0), **how).confidence_interval
    return float(low), float(high)


def _power(expected: Mapping[str, pd.DataFrame], sizes: Sequence[int], k: int) -> pd.DataFrame:
    from scipy.stats import norm

    z = norm.ppf(0.975) + norm.ppf(0.8)
    rows = []
    for metric in (f"hr@{k}", f"ndcg@{k}"):
        deviations = {f"{a}, {b}": (expected[a][metric] - expected[b][metric]).std() for a, b in PAIRS}
        deviations["figures only"] = np.sqrt(2) * expected["ease"][metric].std()
        for compared, sd in deviations.items():
            for n in sorted({len(expected["ease"]), *sizes}):
                rows.append((metric, compared, sd, n, z * sd / n**0.5))
    return pd.DataFrame(rows, columns=["metric", "compared", "sd", "users", "detectable"]).set_index("metric")
