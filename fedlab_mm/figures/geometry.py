"""FedMR's Figure 2: the modality gap under FedRAP, and what a user's own table does to it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm import plotting
from fedlab_mm.errors import AllDivergedError
from fedlab_mm.experiments.run import Run
from fedlab_mm.experiments.train import train, untrained
from fedlab_mm.figures.base import GRID, Exhibit, as_settings, tuned
from fedlab_mm.geometry import modality_gap
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register

SHOWN = (0, 42)  # the paper's two users


class OfFedRAP(Exhibit):
    """FedRAP with FedMR on KU, the cell of the main table."""

    def recipe(self) -> Recipe:
        return Recipe(dataset="ku", backbone="fedrap", method="fedmr", patience=20)

    def settings(self) -> dict[str, Any]:
        own = {"grid": list(GRID), "seeds": list(self.seeds), "users": list(SHOWN)}
        return {**as_settings({"recipe": self.recipe()}), **own}

    def run(self, data: Dataset, cache: str | None, seed: int = 0) -> Run:
        best = tuned(self.recipe(), GRID, data, cache)
        if best is None:
            raise AllDivergedError("FedRAP with FedMR diverged under every setting: there is nothing to draw")
        return train(best.but(seed=seed), data, progress=False, cache=cache)

    def start(self, run: Run, data: Dataset) -> dict[str, np.ndarray]:
        return {name: z_ID.numpy() for name, z_ID in untrained(run.recipe, data).signals().items()}


@register("figure", "fedmr-fig2")
class Picture(OfFedRAP):
    """UMAP of the signals."""

    source = "FedMR, Figure 2: KU, FedRAP"
    caption = (
        "Covers, titles and item IDs of KU in the space that FedMR fuses them in, under FedRAP: before training, "
        "after, and with the personal ID tables of users 0 and 42 (D + P through the map of the ID). UMAP: the axes "
        "have no unit, and what can be measured is in modality-gap-ku."
    )
    seeds = (0,)

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        run = self.run(data, cache)
        panels = {"before training": self.start(run, data), "after": run.signals()}
        panels |= {f"with the table of user {u}": run.signals(user=u) for u in SHOWN}
        tables = []
        for panel, signals in panels.items():
            for signal, at_I2 in plotting.project(signals).items():
                place = {
                    "panel": panel,
                    "signal": signal,
                    "item": range(len(at_I2)),
                    "x": at_I2[:, 0].round(2),
                    "y": at_I2[:, 1].round(2),
                }
                tables.append(pd.DataFrame(place))
        return pd.concat(tables, ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        panels = {
            str(panel): {str(s): of[["x", "y"]].to_numpy() for s, of in part.groupby("signal", sort=False)}
            for panel, part in table.groupby("panel", sort=False)
        }
        return plotting.plot_gap(panels)


@register("figure", "modality-gap-ku")
class Measured(OfFedRAP):
    """The gap in the full space."""

    source = "FedMR, Figure 2: KU, FedRAP, measured"
    caption = (
        "Covers and item IDs of KU in all 64 dimensions, under FedRAP with FedMR: how far their centroids are apart, "
        "how far the points of either lie from their own centroid, and the ratio of the two. Every user's, with its "
        "own ID table (histogram, one seed); lines: without one, before and after training (mean of three seeds). "
        "Titles and IDs are alike (CSV)."
    )

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        tables = []
        for seed in self.seeds:
            run = self.run(data, cache, seed)
            for stage, signals in (("before", self.start(run, data)), ("after", run.signals())):
                tables.append(_gap(signals).assign(stage=stage, seed=seed))
            if seed == 0:
                for user in range(data.n_users):
                    tables.append(
                        _gap(run.signals(user=user)).assign(stage="with a user's table", seed=seed, user=user)
                    )
        return pd.concat(tables, ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        names = {"distance": "distance of centroids", "spread": "spread of points", "gap": "distance / spread"}
        table = table[table["pair"] == "id – image"].rename(columns=names)
        lines = table[table["user"].isna()].groupby("stage", sort=False)[list(names.values())].mean()
        return plotting.plot_gap_users(table.loc[table["user"].notna(), list(names.values())], lines)


def _gap(signals: dict[str, np.ndarray]) -> pd.DataFrame:
    return modality_gap(signals, permutations=99).rename_axis("pair").reset_index()
