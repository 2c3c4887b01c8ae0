"""FedVLR's Figure 2: how clients differ, in activity, in what they rely on, and in how they are served."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm import plotting
from fedlab_mm.audit import by_activity, group_means
from fedlab_mm.errors import AllDivergedError
from fedlab_mm.evaluation import evaluate_users
from fedlab_mm.experiments.train import train
from fedlab_mm.figures.base import GRID, Exhibit, as_settings, tuned
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register


@register("figure", "fedvlr-fig2")
class Heterogeneity(Exhibit):
    """A row for each user and seed."""

    source = "FedVLR, Figure 2: KU, FedRAP"
    caption = (
        "Users of KU by their number of training interactions; what their routers rely on where each view is one "
        "signal alone; and NDCG@50 by activity, of FedRAP with FedVLR and of popularity, which fuses nothing, with 95 "
        "% intervals over users. The paper reads a fall of accuracy with activity as a matter of fusion."
    )

    def recipes(self) -> dict[str, Recipe]:
        recipe = Recipe(dataset="ku", backbone="fedrap", method="fedvlr", patience=20)
        return {"fedvlr": recipe, "solo": recipe.but(operators=("solo",))}

    def settings(self) -> dict[str, Any]:
        return {**as_settings(self.recipes()), "grid": list(GRID), "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        best = {name: tuned(recipe, GRID, data, cache) for name, recipe in self.recipes().items()}
        tables = []
        popularity = lookup("baseline", "popularity")().scores(data)
        listed = evaluate_users(popularity, data.target_U("test"), data.train)
        for seed in self.seeds:
            about = {"user": range(data.n_users), "seed": seed, "interactions": data.train.lengths}
            table = pd.DataFrame({**about, "group": by_activity(data).astype(str)})
            for name, recipe in best.items():
                if recipe is None:
                    raise AllDivergedError(f"FedRAP with {name} views diverged under every setting")
                run = train(recipe.but(seed=seed), data, progress=False, cache=cache)
                weights = run.router_weights().reset_index(drop=True)
                table = table.join(weights.add_prefix("weight of "))
                found = evaluate_users(run.scores_UI, data.target_U("test"), data.train)
                table[f"ndcg@50 {name}"] = found["ndcg@50"].to_numpy()
            tables.append(table.assign(**{"ndcg@50 popularity": listed["ndcg@50"].to_numpy()}))
        return pd.concat(tables, ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        users = table.groupby("user").mean(numeric_only=True)
        named_U = table.groupby("user")["group"].first()
        order = list(users["interactions"].groupby(named_U).min().sort_values().index)
        group_U = pd.Categorical(named_U, categories=order, ordered=True)
        names = {"ndcg@50 fedvlr": "FedRAP + fedvlr", "ndcg@50 popularity": "popularity"}
        means = group_means(users[list(names)].rename(columns=names), group_U)
        solo = users.filter(like="weight of solo:").rename(columns=lambda name: name.removeprefix("weight of solo:"))
        return plotting.plot_heterogeneity(users["interactions"], solo, means)
