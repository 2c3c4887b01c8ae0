"""GFMFR beside fusion elsewhere and none; what its groups, its λ and gaps in the modalities do to it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from fedlab_mm.data.hide import hide
from fedlab_mm.figures.base import GRID, Cells, Exhibit, as_settings, measured, tuned
from fedlab_mm.figures.comparison import centralised, plot_compared
from fedlab_mm.plotting.ablation import plot_changes, plot_sampling
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register

WRAPPED = ("fedavg", "fedncf", "pfedrec", "fedrap")
METHODS = ("none", "mlp", "fedvlr", "gfmfr")
FIT_EPOCHS = 10  # a round, from where the last left it; 50 take four times as long and differ on KU as seeds do
Grid = Sequence[Mapping[str, Any]]
GUIDED: Grid = (
    {"optimizer": ["adam"], "lr": [0.01, 0.03], "distill": [0.3]},
    {"optimizer": ["sgd"], "lr": [None], "distill": [0.1, 0.3]},
)
SHORT: Grid = ({"optimizer": ["adam"], "lr": [0.01]}, {"optimizer": ["sgd"], "lr": [None]})
MEASURED = "mean and range of three seeds, every cell tuned on validation with the same number of settings"
LINES = "Lines: popularity, item-KNN and EASE, which see all interactions in one place."


class GroupFusion(Cells):
    """Four backbones under four placements of fusion."""

    source = "GFMFR: its first experiment, the integration with backbones; its tables are not at hand"
    keys = ("backbone", "method")
    backbones: ClassVar[tuple[str, ...]] = WRAPPED
    changes: ClassVar[Mapping[str, Any]] = {"patience": 20}
    grids: ClassVar[tuple[Grid, Grid]] = (GRID, GUIDED)  # without GFMFR, and with

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        for backbone in self.backbones:
            for method in METHODS:
                recipe = Recipe(dataset=self.dataset or "", backbone=backbone, method=method, **self.changes)
                yield (backbone, method), recipe.but(fit_epochs=FIT_EPOCHS) if method == "gfmfr" else recipe

    def grid(self, recipe: Recipe) -> Grid:
        return self.grids[recipe.method == "gfmfr"]

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "grid": list(self.grids[0]), "grid of gfmfr": list(self.grids[1])}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        return pd.concat([centralised(data), super().measure(data, cache)], ignore_index=True)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_compared(table)


@register("figure", "gfmfr-ku")
class OnKU(GroupFusion):
    caption = (
        f"GFMFR beside other placements of fusion, on KU: {MEASURED} (FedNCF with gfmfr of one, for two diverged). "
        f"{LINES}"
    )


@register("figure", "gfmfr-toy")
class OnToy(GroupFusion):
    dataset = "toy"
    caption = f"GFMFR beside other placements of fusion, on the toy set: {MEASURED}. {LINES}"


@register("figure", "gfmfr-ml")
class OnML(GroupFusion):
    dataset = "ml-latest-small"
    caption = (
        f"GFMFR beside other placements of fusion, on ml-latest-small, whose posters and abstracts an offline encoder "
        f"reads; a quarter of the clients in a round, 40 rounds at most; without FedNCF, which takes ten minutes a "
        f"cell: {MEASURED}. {LINES}"
    )
    backbones = ("fedavg", "pfedrec", "fedrap")
    changes: ClassVar[Mapping[str, Any]] = {"patience": 10, "evaluate_every": 2, "rounds": 40, "clients": 0.25}
    grids: ClassVar[tuple[Grid, Grid]] = (SHORT, tuple({**settings, "distill": [0.3]} for settings in SHORT))


@register("figure", "grouping-ku")
class GroupingOnKU(Exhibit):
    """Who is put with whom, into how many groups, and how much is distilled."""

    source = "GFMFR: its second experiment, groups at random; its open questions one and two; its sweeps of g and λ"
    caption = (
        "GFMFR on KU: groups by prediction function (K-means or spectral, four or a number chosen by silhouette), by "
        "behaviour, at random, other numbers of groups, and other weights of distillation: how much more each has than "
        "four groups by K-means of prediction functions at λ = 0.3, the setting that validated best, with the same "
        "seed (means filled, three seeds as dots)."
    )
    backbones: ClassVar[tuple[str, ...]] = ("fedavg", "pfedrec")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prediction": {},
        "spectral": {"clustering": "spectral"},
        "silhouette": {"groups": None},
        "behaviour": {"grouping": "behaviour"},
        "random": {"grouping": "random"},
        **{f"g = {g}": {"groups": g} for g in (1, 2, 8)},
        **{f"λ = {distill:g}": {"distill": distill} for distill in (0.0, 0.03, 0.1, 0.3, 1.0)},
    }

    def recipes(self) -> dict[str, Recipe]:
        return {backbone: _wrapped(backbone)["gfmfr"] for backbone in self.backbones}

    def settings(self) -> dict[str, Any]:
        own = {"grid": list(GUIDED), "variants": dict(self.variants), "seeds": list(self.seeds)}
        return {**as_settings(self.recipes()), **own}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows = []
        with tqdm(total=len(self.backbones) * len(self.variants), desc="grouping", unit="cell") as bar:
            for backbone, recipe in self.recipes().items():
                best = tuned(recipe, GUIDED, data, cache)
                for variant, changes in self.variants.items():
                    changed = best.but(**changes) if best else None
                    about = {"backbone": backbone, "variant": variant}
                    rows += [about | row for row in measured(changed, data, self.seeds, cache)]
                    bar.update()
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_changes(table, "ndcg@50", "prediction")


@register("figure", "missing-ku")
class Missing(Exhibit):
    """Gaps in what the server holds."""

    source = "GFMFR: its open question three"
    caption = (
        "Images and titles gone from a share of KU's items, the mean of the others in their place: GFMFR and FedVLR, "
        "each at the setting that validated best with nothing gone. Mean and range of three seeds (at 0.6 FedAvg with "
        "GFMFR of two, for one diverged)."
    )
    backbones: ClassVar[tuple[str, ...]] = ("fedavg", "pfedrec")
    shares: ClassVar[tuple[float, ...]] = (0.0, 0.2, 0.4, 0.6, 0.8)

    def recipes(self) -> dict[tuple[str, str], Recipe]:
        return {
            (backbone, method): recipe for backbone in self.backbones for method, recipe in _wrapped(backbone).items()
        }

    def settings(self) -> dict[str, Any]:
        recipes = {" | ".join(key): recipe for key, recipe in self.recipes().items()}
        own = {
            "grid": list(GRID),
            "grid of gfmfr": list(GUIDED),
            "shares": list(self.shares),
            "seeds": list(self.seeds),
        }
        return {**as_settings(recipes), **own}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows = []
        with tqdm(total=len(self.recipes()) * len(self.shares), desc="missing modalities", unit="share") as bar:
            for (backbone, method), recipe in self.recipes().items():
                best = tuned(recipe, GUIDED if method == "gfmfr" else GRID, data, cache)
                for share in self.shares:
                    world = hide(data, dict.fromkeys(data.features, share))
                    about = {"backbone": backbone, "method": method, "share": share}
                    rows += [about | row for row in measured(best, world, self.seeds, cache)]
                    bar.update()
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        label = "share of items without image and title"
        return plot_sampling(table, "ndcg@50", lines="method", panels="backbone", label=label)


def _wrapped(backbone: str) -> dict[str, Recipe]:
    recipe = Recipe(dataset="ku", backbone=backbone, patience=20)
    return {"fedvlr": recipe.but(method="fedvlr"), "gfmfr": recipe.but(method="gfmfr", fit_epochs=FIT_EPOCHS)}
