"""Ranking: which items does a user want next?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.evaluation import evaluate_blocks, evaluate_blocks_of_several
from fedlab_mm.federation.ranking import RankingFederation
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register
from fedlab_mm.settings import NOT_NEGATIVE, POSITIVE, POSITIVE_OR_NONE, Settings, at_least, member_of, one_of, setting
from fedlab_mm.tasks.base import Judged, Task, paired_means, rival_of


@register("task", "ranking")
class Ranking(Task):
    """Each user's held-out item among all that it does not hold: HR and NDCG, over all targets, warm and cold ones."""

    prefix, what, data = "", "methods that rank items", "items to rank"
    federation = RankingFederation
    rivals = ("popularity", "itemknn", "ease", "ials")

    def check(self, recipe: Recipe, data: Any) -> None:
        if recipe.k > data.n_items:
            raise FedlabError(f"k={recipe.k}: {data.name} has only {data.n_items} items")

    def yardstick(self, recipe: Recipe) -> Any:
        return recipe.k, recipe.ties

    def goal(self, recipe: Recipe) -> str:
        return f"ndcg@{recipe.k}"

    def judge(self, model: Any, split: str) -> Judged:
        return self._judged(model.score_blocks(), model.data, split, model.recipe)

    def judge_rival(self, name: str, data: Any, recipe: Recipe) -> Judged:
        return self.judge_scores(rival_of("baseline", name).scores(data), data, "test", recipe)

    def judge_scores(self, scores_UI: Any, data: Any, split: str, recipe: Recipe) -> Judged:
        """Scores by whatever made them, [U, I], by the recipe's k and rule for ties."""
        return self._judged([(slice(0, data.n_users), torch.as_tensor(scores_UI))], data, split, recipe)

    def _judged(self, blocks: Iterable[tuple[slice, torch.Tensor]], data: Any, split: str, recipe: Recipe) -> Judged:
        if data.several:
            metrics, users = evaluate_blocks_of_several(blocks, data, split, recipe.k, recipe.ties)
            return Judged(metrics, users.reset_index())
        metrics, users = evaluate_blocks(blocks, data, split, recipe.k, recipe.ties)
        return Judged(metrics, users.rename_axis("user").reset_index().assign(warm=data.warm_I[users["target"]]))

    def by_user(self, users: pd.DataFrame) -> list[str]:
        return [str(column) for column in users if "@" in str(column)]

    def tests(self, recipe: Recipe) -> list[tuple[str, str]]:
        return [(f"{metric}@{recipe.k}", targets) for metric in ("hr", "ndcg") for targets in ("all", "warm")]

    def paired(self, users: pd.DataFrame, a: str, b: str, metric: str, targets: str) -> pd.Series:
        if targets not in ("all", "warm", "cold"):
            raise FedlabError(f"unknown targets '{targets}': there are: all, warm, cold")
        chosen = users if targets == "all" else users[users["warm"] == (targets == "warm")]
        return paired_means(chosen, a, b, metric)

    def told_targets(self, data: Any) -> str:
        return f"{len(data.targets('test').items)} test targets, {data.n_cold('test')} of them cold"

    @dataclass(frozen=True)
    class Params(Settings):
        """What every run that ranks items reads.

        Those of fusion are here and not with the methods, for a method that does not fuse passes them on:
        `recipe.but(method="none").but(method="fedvlr")` is the recipe itself.

        Attributes:
            operators: the fusion operators g_j that a router chooses among, in order. "solo:image" is the view that is
                one signal alone, "solo" stands for one of each.
            without: signals left out of fusion: "id", or a modality.
            loss: L_recon; None for the backbone's own, or where clients solve "implicit", a square over all items.
            solver: how a client trains its predictor: by "steps" of the optimizer, or "closed": it solves for it
                exactly, which takes the loss "implicit", a score that is linear in the item, and no negatives.
            unobserved: α₀ of that loss, the weight of an item that a client does not hold beside 1 of one that it does.
            reg: λ of that loss, of predictors and of item rows, scaled by how much each is seen.
            server_steps: steps of the server in a round from the same uploads, of clients that solve: the first along
                their gradient, the others along that of the square it belongs to (`fedlab_mm.methods.whole`). Clients
                then tell which rows they hold, one number a row.
            negatives: negatives drawn per positive, anew each round.
            negatives_by: "uniform", or "popularity", an item's training interactions plus one, which every client must
                then be told.
            id_lr_scale: what shared_lr is multiplied by for a table with a row for each item under SGD, for a row sees
                only about one sample in n_items. None: n_items, but at most 25 times the mean number of a client's
                samples (the data tell it, so name a scale where privacy is to be proved); for D, which is behind a map,
                n_items / 20, but at least 30; for FedRAP's personal table 0.1 where lr and shared_lr are open too. By
                n_items for both tables FCF diverged in round 2 on short videos (6,710 items, half of the users with one
                training item), FedRAP in round 31 on KU. `benchmarks/results.md` has the table of what the defaults
                reach beside popularity. One falls short for what it is: FedAvg weighs clients by samples, and on the
                short videos, where most have one item, it stays below popularity (NDCG@50 0.008 to 0.012); with
                aggregation="equal" it does not (0.014).
            dim: latent width D (the papers: 64).
            id_dim: width of the ID embedding of fused methods (the papers: 512).
            feature_scale: features are standardised by column and multiplied by this; None leaves them as encoded.
            view_scale: in every round each view is divided by its root mean square over the catalogue and multiplied by
                this, so that routers do not choose a view for its size; None, as in the papers, leaves views as they
                are.
            k: cut-off of HR and NDCG.
            ties: "expected", or "index", as the papers' code breaks them.
        """

        operators: tuple[str, ...] = setting(("sum", "mlp", "gate"))
        without: tuple[str, ...] = setting(())
        loss: str | None = setting(None, member_of("loss"))
        solver: str = setting("steps", one_of("steps", "closed"))
        unobserved: float = setting(0.03, POSITIVE)
        reg: float = setting(0.06, NOT_NEGATIVE)
        server_steps: int = setting(1, at_least(1))
        negatives: int = setting(4, at_least(1))
        negatives_by: str = setting("uniform", one_of("uniform", "popularity"))
        id_lr_scale: float | None = setting(None, POSITIVE_OR_NONE)
        dim: int = setting(64, at_least(1))
        id_dim: int = setting(512, at_least(1))
        feature_scale: float | None = setting(0.1, POSITIVE_OR_NONE)
        view_scale: float | None = setting(None, POSITIVE_OR_NONE)
        k: int = setting(50, at_least(1))
        ties: str = setting("expected", one_of("expected", "index"))

        def check(self) -> None:
            for operator in self.operators:
                if operator.partition(":")[0] != "solo":
                    lookup("operator", operator)
            if self.unobserved > 1:
                raise FedlabError(f"unobserved={self.unobserved}: lies in (0, 1], the weight of an item that is held")
            if self.solver == "closed" and self.loss not in (None, "implicit"):
                raise FedlabError(f"solver='closed' solves loss='implicit', and loss is '{self.loss}'")
            if self.server_steps > 1 and self.solver != "closed":
                raise FedlabError(
                    f"server_steps={self.server_steps}: only of clients that solve (solver='closed') does the server "
                    "know more than a gradient"
                )
            if not self.operators:
                raise FedlabError("operators is empty: name at least one, e.g. operators=('sum',)")
            if len(set(self.operators)) < len(self.operators):
                raise FedlabError(f"operators={self.operators} names one twice")
