"""The toy set's own picture: what was planted, and what routers find of it."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm import plotting
from fedlab_mm.experiments.train import train
from fedlab_mm.figures.base import Exhibit, as_settings
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register

SIGNALS = {"image": "covers", "text": "titles", "id": "like minds"}


@register("figure", "reliance-toy")
class Reliance(Exhibit):
    """A row for each user."""

    source = "none: nobody knows what real users rely on"
    caption = (
        "Users of the toy set: the weight that a user's private router gives each signal after sixty rounds, against "
        "how much the user was made to rely on it. FCF with FedVLR, a view for each signal; mean of three seeds."
    )
    dataset = "toy"

    def recipe(self) -> Recipe:
        return Recipe(dataset="toy", backbone="fcf", method="fedvlr", operators=("solo",), rounds=60)

    def settings(self) -> dict[str, Any]:
        return {**as_settings({"recipe": self.recipe()}), "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        runs = [train(self.recipe().but(seed=seed), data, cache=cache) for seed in self.seeds]
        weights = pd.concat([run.router_weights().reset_index(drop=True) for run in runs]).groupby(level=0).mean()
        planted = pd.DataFrame(data.truth["reliance_US"], columns=[f"planted {signal}" for signal in SIGNALS])
        return planted.join(weights)

    def draw(self, table: pd.DataFrame) -> Figure:
        planted = table[[f"planted {signal}" for signal in SIGNALS]].set_axis(list(SIGNALS.values()), axis=1)
        weights = table[[f"solo:{signal}" for signal in SIGNALS]].set_axis(list(SIGNALS.values()), axis=1)
        return plotting.plot_reliance(planted, weights)
