"""The tables that compare: FedMR's Table 2 and FedVLR's Table 2, on KU."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.evaluation import evaluate
from fedlab_mm.figures.base import BACKBONES, METRICS, Cells
from fedlab_mm.plotting.ablation import plot_variants
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup, register
from fedlab_mm.reported import reported
from fedlab_mm.tasks.ranking import Ranking

SHOWN = ("hr@50", "ndcg@50")
METHODS = ("none", "mlp", "fedvlr", "fedmr")


@register("figure", "main-table-ku")
class MainTable(Cells):
    """Five backbones under four placements of fusion."""

    source = "FedVLR, Table 2, and FedMR, Table 3 (its whole model): KU"
    caption = (
        "HR@50 and NDCG@50 on KU. Ours (filled): mean and range of three seeds, every cell tuned on validation with "
        "the same four settings. Reported (hollow): FedVLR, and FedMR for fedmr. Lines: popularity, "
        "item-KNN and EASE, which see all interactions in one place."
    )
    keys = ("backbone", "method")

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        for backbone in BACKBONES:
            for method in METHODS:
                yield (backbone, method), Recipe(dataset="ku", backbone=backbone, method=method, patience=20)

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        return pd.concat([centralised(data), super().measure(data, cache)], ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        fused = reported_cells("fedmr_table3", variants={"full": "fedmr"})
        return plot_compared(table, pd.concat([reported_cells("fedvlr_table2"), fused]))


def plot_compared(table: pd.DataFrame, reported: pd.DataFrame | None = None) -> Figure:
    """Backbones under methods, with what is centralised as lines."""
    is_baseline = table["method"] == "centralised"
    cells = table[~is_baseline].rename(columns={"method": "variant"})
    return plot_variants(cells, SHOWN, reported, lines=table[is_baseline].set_index("backbone")[list(SHOWN)])


def centralised(data: Dataset) -> pd.DataFrame:
    """A row for each baseline that sees all interactions in one place."""
    rows = []
    for name in Ranking.rivals:
        scores_UI = lookup("baseline", name)().scores(data)
        found = evaluate(scores_UI, data.target_U("test"), data.train, warm_I=data.warm_I)
        rows.append({"backbone": name, "method": "centralised", **{m: found[m] for m in METRICS}})
    return pd.DataFrame(rows)


def reported_cells(*names: str, variants: Mapping[str, str] | None = None) -> pd.DataFrame:
    """What papers report for KU's federated cells: backbone, variant (the method, where `variants` does not name it
    anew), and the metrics."""
    table = pd.concat([reported(name).assign(source=name) for name in names], ignore_index=True)
    table = table[(table["dataset"] == "ku") & table["backbone"].isin(BACKBONES) & table["metric"].isin(METRICS)]
    variant = table["method"] if variants is None else table["variant"].map(dict(variants))
    table = table.assign(variant=variant).dropna(subset="variant")
    wide = table.pivot_table(index=["source", "backbone", "variant"], columns="metric", values="value")
    return wide.reset_index().drop(columns="source").drop_duplicates()
