"""Parameters counted on the modules, beside the papers' tables."""

from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.experiments.count import count_parameters
from fedlab_mm.figures.base import BACKBONES, Exhibit, as_settings
from fedlab_mm.plotting.reported import plot_counts
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.reported import reported


class Counts(Exhibit):
    """Every federated cell of a table of counts."""

    dataset = None
    table: ClassVar[str]
    convention: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]

    def settings(self) -> dict[str, Any]:
        recipes = {f"{b} | {m}": Recipe(backbone=b, method=m) for b in BACKBONES for m in self.methods}
        return {**as_settings(recipes), "table": self.table, "convention": self.convention}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        shapes = reported("fedvlr_table1").pivot_table(index="dataset", columns="metric", values="value")
        cells = reported(self.table)
        cells = cells[cells["backbone"].isin(BACKBONES) & cells["method"].isin(self.methods)]
        rows = []
        for cell in cells.to_dict("records"):
            shape = shapes.loc[cell["dataset"]]
            recipe = Recipe(backbone=cell["backbone"], method=cell["method"])
            ours = count_parameters(recipe, int(shape["users"]), int(shape["items"]))[self.convention]
            theirs = int(cell["value"])
            # Thousands are printed by one paper, now rounded and now cut off.
            agrees = abs(ours - theirs) < 1000 if theirs % 1000 == 0 else ours == theirs
            about = {name: cell[name] for name in ("dataset", "backbone", "method")}
            rows.append({**about, "ours": ours, "reported": theirs, "agrees": agrees})
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_counts(table)


@register("figure", "fedmr-table5")
class Table5(Counts):
    source = "FedMR, Table 5"
    caption = "Learnable parameters, counted on our modules by FedMR's convention, against its Table 5, cell by cell."
    table, convention, methods = "fedmr_table5", "fedmr", ("none", "fedmr")


@register("figure", "fedvlr-table3")
class Table3(Counts):
    source = "FedVLR, Table 3"
    caption = (
        "What a client holds, counted on our modules by FedVLR's convention, against its Table 3 (thousands), cell by "
        "cell. Those off the line fit another width than the rest of their row; one is off by a thousand."
    )
    table, convention, methods = "fedvlr_table3", "fedvlr", ("none", "mlp", "fedvlr")
