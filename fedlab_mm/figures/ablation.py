"""What is left out, what is fused with, and who takes part: FedMR's Table 3, Figure 3 and Figure 4, on KU.

Fused on the server in all three. FedMR fuses on the clients, where training one cell takes an hour on two cores.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.figures.base import BACKBONES, Cells
from fedlab_mm.figures.comparison import SHOWN, reported_cells
from fedlab_mm.plotting.ablation import plot_sampling, plot_variants
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register


@register("figure", "modality-ablation-ku")
class Ablation(Cells):
    """One signal left out."""

    source = "FedMR, Table 3, and FedVLR, Figure 3: KU"
    caption = (
        "What is lost where covers, titles or item IDs are left out, on KU. Ours (filled) fuses on the server, as "
        "FedVLR does: mean and range of three seeds, every cell tuned with the same four settings. Reported (hollow): "
        "FedMR."
    )

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        for backbone in BACKBONES:
            recipe = Recipe(dataset="ku", backbone=backbone, method="fedvlr", patience=20)
            yield (backbone, "all"), recipe
            for signal, name in (("image", "no covers"), ("text", "no titles"), ("id", "no IDs")):
                yield (backbone, name), recipe.but(without=(signal,))

    def draw(self, table: pd.DataFrame) -> Figure:
        names = {"full": "all", "without image": "no covers", "without text": "no titles", "without id": "no IDs"}
        return plot_variants(table, SHOWN, reported_cells("fedmr_table3", variants=names))


@register("figure", "fusion-strategies-ku")
class Strategies(Cells):
    """One operator, or a router among three."""

    source = "FedMR, Figure 3: KU"
    caption = (
        "One fusion operator alone, or a router among the three (mix), on KU, fused on the server. Mean and range of "
        "three seeds, every cell tuned on validation with the same four settings. The paper gives bars without "
        "figures: mix above all others, sum far below."
    )

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        for backbone in BACKBONES:
            recipe = Recipe(dataset="ku", backbone=backbone, method="fedvlr", patience=20)
            for operator in recipe.operators:
                yield (backbone, operator), recipe.but(operators=(operator,))
            yield (backbone, "mix"), recipe

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_variants(table, SHOWN)


@register("figure", "client-sampling-ku")
class ClientSampling(Cells):
    """The share of clients in a round."""

    source = "FedMR, Figure 4: KU"
    caption = (
        "Share of clients that take part in a round, on KU, 60 rounds at most, fused on the server. Mean and range of "
        "three seeds, every point tuned on validation with the same four settings. The "
        "paper gives curves without figures."
    )
    keys = ("backbone", "share")

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        for backbone in BACKBONES:
            for share in (0.1, 0.25, 0.5, 1.0):
                recipe = Recipe(dataset="ku", backbone=backbone, method="fedvlr", patience=20, clients=share)
                yield (backbone, share), recipe

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_sampling(table, SHOWN)
