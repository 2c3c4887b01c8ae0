"""Simple predictors of clicks, which see all training showings in one place: `predict(log, split)` -> logits."""

from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import logit

from fedlab_mm.records import ClickLog
from fedlab_mm.registry import register
from fedlab_mm.threads import spare

SMOOTH = 5.0  # showings at the global rate that every rate begins with
RECENT = 10


class ClickBaseline:
    """Base: `predict` gives a logit for each showing of a split, in the log's order. A click before a showing is known
    when it is shown, so histories run up to it (also where both have the same time, as on a page, whose clicks strictly
    come later); nothing is fitted to any split but training."""

    def predict(self, log: ClickLog, split: str) -> np.ndarray:
        raise NotImplementedError


@register("click baseline", "rate")
class Rate(ClickBaseline):
    """The share of training showings that were clicked, for all."""

    def predict(self, log: ClickLog, split: str) -> np.ndarray:
        table = log.interactions
        rate = table["click"][table["split"] == "train"].mean()
        return np.full(int((table["split"] == split).sum()), logit(rate))


@register("click baseline", "user rate")
class UserRate(ClickBaseline):
    """The user's own share of clicks so far, smoothed towards the global one."""

    def predict(self, log: ClickLog, split: str) -> np.ndarray:
        return logit(history(log)["rate"][(log.interactions["split"] == split).to_numpy()].to_numpy())


class _Fitted(ClickBaseline):
    """A classifier on the attributes of user and item and on the user's click history."""

    use_history: ClassVar[bool] = True

    def predict(self, log: ClickLog, split: str) -> np.ndarray:
        table = log.interactions
        users, items = log.users.iloc[table["user"]], log.items.iloc[table["item"]]
        codes = pd.concat(
            [
                users[list(log.attributes["user"])].add_prefix("user ").reset_index(drop=True),
                items[list(log.attributes["item"])].add_prefix("item ").reset_index(drop=True),
            ],
            axis=1,
        )
        past = history(log) if self.use_history else pd.DataFrame(index=codes.index)
        train, asked = (table["split"] == "train").to_numpy(), (table["split"] == split).to_numpy()
        model, features = self.model(codes, past)
        with spare():
            model.fit(features[train], table["click"].to_numpy()[train])
            clicked = model.predict_proba(features[asked])[:, 1]
        return logit(np.clip(clicked, 1e-6, 1 - 1e-6))

    def model(self, codes: pd.DataFrame, past: pd.DataFrame):
        raise NotImplementedError


@register("click baseline", "logistic")
class Logistic(_Fitted):
    """Logistic regression on one-hot attributes of user and item."""

    use_history = False

    def model(self, codes: pd.DataFrame, past: pd.DataFrame):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder

        return make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=0.1, max_iter=300)), codes


@register("click baseline", "trees")
class Trees(_Fitted):
    """Boosted trees on attributes, the user's click rate so far, and what it did of late."""

    def model(self, codes: pd.DataFrame, past: pd.DataFrame):
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(random_state=0), pd.concat([codes, past], axis=1)


def history(log: ClickLog) -> pd.DataFrame:
    """Before each showing: the user's smoothed click rate, how many showings it had, the mean of its last ten, and the
    last one; a row for each row of the log."""
    table = log.interactions
    train = table["split"] == "train"
    overall = float(table["click"][train].mean())
    by_user = table.groupby("user")["click"]
    shown = by_user.cumcount()
    clicked = by_user.cumsum() - table["click"]
    before = by_user.shift(1)
    recent = before.groupby(table["user"]).rolling(RECENT, min_periods=1).mean().reset_index(level=0, drop=True)
    return pd.DataFrame(
        {
            "rate": (clicked + SMOOTH * overall) / (shown + SMOOTH),
            "shown": shown,
            "recent": recent.sort_index().fillna(overall),
            "last": before.fillna(overall),
        }
    ).reset_index(drop=True)
