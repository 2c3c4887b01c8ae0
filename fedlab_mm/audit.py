"""What a split gives away before anything is learned: leaks, and how far a rule that knows nothing of taste gets.

A model's figure means little where a rule that never looks at a user's history comes near it. On KU, for example, 16 of
560 items have no training interaction and yet are the target of 88 of 204 users: putting these first and the rest by
popularity finds 54 % of all targets within 50.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation import evaluate_users
from fedlab_mm.records import Dataset

BLOCK = 1000  # users ranked at a time


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
        "first k by RULE": targets among the first k by a rule that looks at no user's taste, ties in expectation.

    Raises:
        FedlabError: k out of range, an unknown split.

    >>> from fedlab_mm.registry import lookup
    >>> toy = lookup("dataset", "toy").load()
    >>> audit(toy).loc["targets without training interaction", ["n", "of"]].astype(int).tolist()
    [26, 300]
    """
    if not isinstance(data, Dataset):
        raise FedlabError(f"audit needs a Dataset, whose items are ranked; {data.name} is a {type(data).__name__}")
    if split not in ("valid", "test"):
        raise FedlabError(f"unknown split '{split}': there are: valid, test")
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
    target_U = data.target_U(split)
    asked = np.flatnonzero(target_U >= 0)
    for rule, scores_I in trivial_rules(data).items():
        found = 0.0
        for start in range(0, len(asked), BLOCK):
            users = asked[start : start + BLOCK]
            scores_UI = np.tile(scores_I, (len(users), 1))
            found += evaluate_users(scores_UI, target_U[users], data.train.take(users), k)[f"hr@{k}"].sum()
        rows[f"first {k} by {rule}"] = (found, len(held))
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
