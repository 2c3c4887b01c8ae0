"""What privacy costs and what it buys: FedMR's Table 4, noise of many sizes, and each defence beside the attack."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from fedlab_mm import plotting, privacy
from fedlab_mm.experiments.attack import attack
from fedlab_mm.experiments.tune import tune
from fedlab_mm.figures.base import BACKBONES, GRID, Exhibit, as_settings, measured, tuned
from fedlab_mm.figures.comparison import SHOWN, reported_cells
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register

STRENGTHS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)  # FedMR's 0 … 1, and MRFF's 0 … 0.5 in it
WATCHED = 5  # rounds
LIGHT: tuple[Mapping[str, Any], ...] = ({**GRID[0], "lr": [0.01, 0.03]}, GRID[1])  # without fusion, a setting less
UNSTEADY = "fedncf"  # its default SGD, which validates best without noise, diverges with any of 0.01 and more


def steady(recipe: Recipe, grid: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The settings of a grid that a backbone outlives noise with."""
    return [part for part in grid if "sgd" not in part["optimizer"]] if recipe.backbone == UNSTEADY else grid


@register("figure", "fedmr-table4")
class Table4(Exhibit):
    """The papers' noise on FedMR."""

    source = "FedMR, Table 4: KU"
    caption = (
        "FedMR without noise, and with Gaussian noise of variance 0.1 on all that a client sends: the rows of its item "
        "table and its sums of gradients. Settings tuned without noise, FedNCF's among Adam's only; mean and range of "
        "two seeds. Reported (hollow): the paper's two columns."
    )
    seeds = (0, 1)  # noise on every number of 204 copies of the fusion module takes minutes a run

    def recipes(self) -> dict[str, Recipe]:
        return {b: Recipe(dataset="ku", backbone=b, method="fedmr", patience=20) for b in BACKBONES}

    def settings(self) -> dict[str, Any]:
        own = {"grid": list(GRID), "without sgd": UNSTEADY, "seeds": list(self.seeds), "variance": 0.1}
        return {**as_settings(self.recipes()), **own}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows = []
        for backbone, recipe in tqdm(self.recipes().items(), desc="FedMR's Table 4", unit="backbone"):
            best = tuned(recipe, steady(recipe, GRID), data, cache)
            for variant, noise in (("no noise", 0.0), ("noise", 0.1)):
                about = {"backbone": backbone, "variant": variant, "noise": noise}
                noisy = best.but(noise=noise) if best else None
                rows += [about | row for row in measured(noisy, data, self.seeds, cache)]
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        names = {"without noise": "no noise", "with noise": "noise"}
        reported = reported_cells("fedmr_table4", variants=names)
        return plotting.plot_variants(table, SHOWN, reported)


@register("figure", "noise-ku")
class NoiseSweep(Exhibit):
    """Variance of the noise against utility and item inference, without fusion."""

    source = "FedMR, section 5.6.4, and MRFF, Table 2: their strengths of noise"
    caption = (
        "Noise of each variance on all that a client sends: test NDCG@50 (mean and range of three seeds), and how well "
        "a server tells a client's items from its uploads in five rounds (AUC). No fusion; tuned without noise, FedNCF "
        "among Adam's settings only."
    )

    def recipes(self) -> dict[str, Recipe]:
        return {b: Recipe(dataset="ku", backbone=b, method="none", patience=20) for b in BACKBONES}

    def settings(self) -> dict[str, Any]:
        own = {"grid": list(LIGHT), "without sgd": UNSTEADY, "seeds": list(self.seeds)}
        return {**as_settings(self.recipes()), **own, "variances": list(STRENGTHS), "rounds watched": WATCHED}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows = []
        with tqdm(total=len(BACKBONES) * len(STRENGTHS), desc="noise", unit="variance") as bar:
            for backbone, recipe in self.recipes().items():
                best = tune(recipe, steady(recipe, LIGHT), data, progress=False, cache=cache)
                for variance in STRENGTHS:
                    noisy = best.but(noise=variance)
                    read = attack("items", noisy, data, rounds=WATCHED, progress=False).loc["uploads"].to_dict()
                    about = {"backbone": backbone, "noise": variance, **read}
                    rows += [about | row for row in measured(noisy, data, self.seeds, cache)]
                    bar.update()
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plotting.plot_noise(table)


@register("figure", "defences-ku")
class Defences(Exhibit):
    """Each defence of FCF, whose clients step or solve: utility, ε, and item inference."""

    source = "none: the papers do not ask what their noise buys"
    caption = (
        "What each defence of FCF costs (NDCG@50, mean and range of three seeds) and buys: how well a server tells a "
        "client's items from what it sees in five rounds (AUC, with its 95 % interval over users), and the ε that is "
        "proven, if any. Clients take SGD's steps (filled) or solve for their predictor (hollow)."
    )

    def bases(self) -> dict[str, Recipe]:
        base = Recipe(dataset="ku", backbone="fcf", method="none", patience=20)
        return {"steps": base, "solved": base.but(solver="closed", server_optimizer="adam", rounds=80)}

    def settings(self) -> dict[str, Any]:
        tried = {
            f"{client} | {name}": recipe
            for client, base in self.bases().items()
            for name, recipe, _ in self.tried(base, None)
        }
        grids = {"grid": list(LIGHT), "grid of solved": SOLVED, "clips": list(CLIPS), "epsilons": list(EPSILONS)}
        return {**as_settings(tried), **grids, "seeds": list(self.seeds), "rounds watched": WATCHED}

    def tried(self, base: Recipe, data: Dataset | None) -> Iterator[tuple[str, Recipe, bool]]:
        """(name, recipe, does the server see sums only), the private ones tuned on `data`, or left open without."""
        yield "none", base, False
        yield "all rows", base.but(rows="all"), False
        for noise in (0.1, 1.0):
            yield f"noise {noise:g}", base.but(noise=noise), False
        for noise in (0.01, 0.1, 1.0, 10.0):
            yield f"noise {noise:g}, all rows", base.but(noise=noise, rows="all"), False
        yield "noise 0.1, rows flipped at ε 1", base.but(noise=0.1, rows="flipped", row_epsilon=1.0), False
        yield "sums only", base, True
        for target in EPSILONS:
            name = f"sums only, DP at ε {target:g}"
            yield name, base if data is None else private(base, data, target), True

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for client, untuned in self.bases().items():
            grid: Any = SOLVED if untuned.solver == "closed" else LIGHT
            base = tune(untuned, grid, data, progress=False, cache=cache)
            for name, recipe, secure in tqdm(list(self.tried(base, data)), desc=f"defences, {client}", unit="defence"):
                read = self.read(recipe, data, "uploads", secure)
                proven = privacy.of_recipe(recipe, data.n_users)
                about = {"client": client, "defence": name, "clip": recipe.clip, "z": recipe.noise_multiplier}
                rows += [about | proven | read | row for row in measured(recipe, data, self.seeds, cache)]
            if client == "solved":
                matrix = self.read(base, data, "uploads, matrix only")
                rows.append({"client": client, "defence": "the matrix alone", "epsilon": math.nan, **matrix})
        popularity = self.read(self.bases()["steps"], data, "popularity alone")
        return pd.DataFrame([*rows, {"defence": "popularity alone", "epsilon": math.nan, **popularity}])

    def read(self, recipe: Recipe, data: Dataset, row: str, secure: bool = False) -> dict[str, Any]:
        report = attack("items", recipe, data, rounds=WATCHED, secure=secure, progress=False)
        return {str(name): value for name, value in report.loc[row].items()}

    def draw(self, table: pd.DataFrame) -> Figure:
        return plotting.plot_defences(table)


SOLVED = {"shared_lr": [0.01, 0.03], "unobserved": [0.01, 0.03, 0.1]}
CLIPS = (0.03, 0.1, 0.3, 1.0, 3.0)
EPSILONS = (1000.0, 100.0, 10.0, 1.0)


def private(base: Recipe, data: Dataset, target: float) -> Recipe:
    """Client-level differential privacy at ε after all rounds, with the bound on uploads that validates best."""
    multiplier = privacy.noise_multiplier(target, sampling_rate=1.0, rounds=base.rounds, delta=data.n_users**-1.1)
    recipe = base.but(noise_multiplier=multiplier, clip=1.0, aggregation="equal")
    return tune(recipe, {"clip": list(CLIPS)}, data, progress=False)
