"""Click prediction: will a user click what is shown?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation import evaluate_clicks, paired_auc
from fedlab_mm.federation.clicks import ClickFederation
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.settings import Settings, at_least, one_of, setting
from fedlab_mm.tasks.base import Judged, Task, paired_means, rival_of


@register("task", "clicks")
class Clicks(Task):
    """Each showing of a split, clicked or not: AUC and LogLoss over all, GAUC over users."""

    prefix, what, data = "click ", "methods that predict clicks", "showings and clicks"
    federation = ClickFederation
    rivals = ("rate", "user rate", "logistic", "trees")

    def goal(self, recipe: Recipe) -> str:
        return "auc"

    def judge(self, model: Any, split: str) -> Judged:
        return self._judged(model.predict(split))

    def judge_rival(self, name: str, data: Any, recipe: Recipe) -> Judged:
        shown = data.interactions[data.interactions["split"] == "test"][["user", "click"]].reset_index(drop=True)
        return self._judged(shown.assign(logit=rival_of("click baseline", name).predict(data, "test")))

    def _judged(self, predicted: pd.DataFrame) -> Judged:
        logit, click = predicted["logit"], predicted["click"]
        logloss = np.logaddexp(0, np.where(click > 0, -logit, logit))
        return Judged(evaluate_clicks(logit, click, predicted["user"]), predicted.assign(logloss=logloss))

    def by_user(self, users: pd.DataFrame) -> list[str]:
        return ["auc", "logloss"]

    def tests(self, recipe: Recipe) -> list[tuple[str, str]]:
        return [("auc", "all"), ("logloss", "all")]

    def paired(self, users: pd.DataFrame, a: str, b: str, metric: str, targets: str) -> pd.Series:
        if targets != "all":
            raise FedlabError(f"targets='{targets}': showings are not told apart, take 'all'")
        if metric == "auc":
            return paired_auc(users[users["row"] == a], users[users["row"] == b])
        return paired_means(users, a, b, metric)

    def told_targets(self, data: Any) -> str:
        return f"{int((data.interactions['split'] == 'test').sum())} test showings"

    @dataclass(frozen=True)
    class Params(Settings):
        """What every run that predicts clicks reads.

        Attributes:
            max_length: the most showings that a sequence has.
            attribute_dim: width of each attribute's embedding.
            blocks, heads: of a transformer.
            dropout: of its tokens and feed-forward layers: the share that is dropped.
            history: what a sequence tells of past showings: "items", their attributes (Eq. 1 of MRFF), or "clicks",
                also whether they were clicked.
        """

        max_length: int = setting(65, at_least(1))
        attribute_dim: int = setting(8, at_least(1))
        blocks: int = setting(2, at_least(1))
        heads: int = setting(1, at_least(1))
        dropout: float = setting(0.0)
        history: str = setting("items", one_of("items", "clicks"))

        def check(self) -> None:
            if not 0 <= self.dropout < 1:
                raise FedlabError(f"dropout={self.dropout}: the share that is dropped lies in [0, 1)")
