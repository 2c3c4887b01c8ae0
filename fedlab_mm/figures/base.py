"""A figure as a thing that can be made again: what it measures, how it is drawn, and what it was made from.

Each leaves four files: the table that was measured (CSV), the picture (PNG and PDF), and what it was made from (JSON:
all recipes, seeds and grids; the data's hash; versions). Whether a figure still is what the code would make can be told
from these without measuring anything: the recipes in the JSON are compared with those in the code.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from fedlab_mm.data.load import load
from fedlab_mm.errors import AllDivergedError, DivergedError, FedlabError
from fedlab_mm.experiments.run import Run
from fedlab_mm.experiments.train import train
from fedlab_mm.experiments.tune import tune
from fedlab_mm.files import put, shipped
from fedlab_mm.recipe import Recipe, defaults
from fedlab_mm.records import ClickLog, Dataset
from fedlab_mm.registry import lookup
from fedlab_mm.version import versions

BACKBONES = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap")
METRICS = ("hr@50", "ndcg@50", "hr@50/warm", "ndcg@50/warm")
GRID: tuple[Mapping[str, Any], ...] = (
    {"optimizer": ["adam"], "lr": [0.003, 0.01, 0.03]},
    {"optimizer": ["sgd"], "lr": [None]},
)


class Exhibit:
    """A figure or table. A subclass registers as "figure".

    Class attributes:
        source: what of which paper it stands beside; caption: what it shows, and what is ours in it.
        dataset: what it is measured on; None where nothing is.
        seeds: of every cell.
    """

    source: ClassVar[str]
    caption: ClassVar[str]
    dataset: ClassVar[str | None] = "ku"
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def settings(self) -> dict[str, Any]:
        """All that decides the table, given the data, as JSON can hold it."""
        raise NotImplementedError

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        """The table.

        Args:
            cache: a folder that keeps runs, so that an interrupted figure goes on, and figures share what they share.
        """
        raise NotImplementedError

    def draw(self, table: pd.DataFrame) -> Figure:
        raise NotImplementedError


class Cells(Exhibit):
    """A figure of cells: each is tuned on validation with the same settings, and trained with each seed."""

    keys: ClassVar[tuple[str, ...]] = ("backbone", "variant")

    def cells(self) -> Iterator[tuple[tuple[Any, ...], Recipe]]:
        """(values of `keys`, recipe) of each."""
        raise NotImplementedError

    def grid(self, recipe: Recipe) -> Sequence[Mapping[str, Any]]:
        """The settings that a cell is tuned over; a figure that has others says so in `settings`."""
        return GRID

    def settings(self) -> dict[str, Any]:
        recipes = {" | ".join(map(str, key)): recipe for key, recipe in self.cells()}
        return {**as_settings(recipes), "grid": list(GRID), "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        rows = []
        for key, recipe in tqdm(list(self.cells()), desc=type(self).__name__, unit="cell"):
            best = tuned(recipe, self.grid(recipe), data, cache)
            rows += [dict(zip(self.keys, key, strict=True)) | row for row in measured(best, data, self.seeds, cache)]
        return pd.DataFrame(rows)


def tuned(
    recipe: Recipe,
    grid: Sequence[Mapping[str, Any]],
    data: Dataset | ClickLog,
    cache: str | None,
    seeds: Sequence[int] | None = None,
) -> Recipe | None:
    """The setting that validates best, in the mean of these seeds (the recipe's own if left out); None where all
    diverge."""
    try:
        return tune(recipe, grid, data, progress=False, seeds=seeds, cache=cache)
    except AllDivergedError:
        return None


def as_settings(recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """Recipes as JSON holds them: the defaults once, and what each has of its own."""
    own = {name: recipe.changed for name, recipe in recipes.items()}
    return {"defaults": defaults(), "recipes": own}


def measured(
    recipe: Recipe | None, data: Dataset, seeds: tuple[int, ...], cache: str | None
) -> Iterator[dict[str, Any]]:
    """A row for each seed: what was tuned, the best round, the test metrics; missing where it diverged."""
    for seed in seeds:
        row: dict[str, Any] = {"optimizer": "diverged", "lr": None, "seed": seed, "round": 0}
        row |= dict.fromkeys(METRICS, math.nan)
        if recipe is not None:
            row |= {"optimizer": recipe.optimizer, "lr": recipe.lr}
            try:
                run: Run = train(recipe.but(seed=seed), data, progress=False, cache=cache)
                row |= {"round": run.best_round, **{m: run.test.get(m, math.nan) for m in METRICS}}
            except DivergedError:
                pass
        yield row


def make(name: str, folder: Path, root: str | None = None, cache: str | None = None, data: Any = None) -> list[Path]:
    """Measure a figure, draw it, and write its files.

    Args:
        name: a registered figure; folder: where to; root: the folder that holds the datasets.
        data: the dataset, loaded by the figure's name for it if left out.

    Raises:
        FedlabError: an unknown figure, data that are not there.
    """
    exhibit: Exhibit = lookup("figure", name)()
    if data is None and exhibit.dataset is not None:
        data = load(exhibit.dataset, root)
    start = time.perf_counter()
    table = exhibit.measure(data, cache)
    return write(name, table, data, time.perf_counter() - start, folder)


def write(name: str, table: pd.DataFrame, data: Any, seconds: float, folder: Path) -> list[Path]:
    """The four files of a figure, from a table measured by its code as it stands."""
    exhibit: Exhibit = lookup("figure", name)()
    folder.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    about = {
        "figure": name,
        "source": exhibit.source,
        "caption": exhibit.caption,
        "settings": exhibit.settings(),
        "data": None if data is None else {"name": data.name, "sha256": data.fingerprint},
        "csv": hashlib.sha256(text.encode()).hexdigest(),
        "seconds": round(seconds),
        "versions": versions(),
    }
    put(folder / f"{name}.csv", text)
    put(folder / f"{name}.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return [folder / f"{name}.csv", folder / f"{name}.json", *draw(name, folder)]


def drawn(name: str, folder: str | os.PathLike[str] | None = None) -> Figure:
    """A figure drawn from its table, for a notebook to show; from the table that comes with the package if no folder
    is named."""
    exhibit: Exhibit = lookup("figure", name)()
    return exhibit.draw(table_of(name, folder))


def draw(name: str, folder: Path) -> list[Path]:
    """Draw a figure anew from its table, measuring nothing, and write its pictures.

    Raises:
        FedlabError: there is no table.
    """
    figure = drawn(name, folder)
    paths = []
    for kind, options in (("png", {"dpi": 150}), ("pdf", {"metadata": {"CreationDate": None}})):
        path, drawn_as = folder / f"{name}.{kind}", BytesIO()
        figure.savefig(drawn_as, format=kind, **options)
        put(path, drawn_as.getvalue())
        paths.append(path)
    return paths


def table_of(name: str, folder: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """A figure's table, as it was measured: in a folder, or as it comes with the package.

    Raises:
        FedlabError: there is none.
    """
    place = shipped("figures/measured") if folder is None else Path(folder)
    path = place / f"{name}.csv"
    if not path.is_file():
        raise FedlabError(f"{path} is not there: measure it with `fedlab-mm figures {name}`")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values=[""])


def about(name: str, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What a figure was made from: source, caption, recipes, seeds, the data's hash, versions; in a folder, or as it
    comes with the package."""
    place = shipped("figures/measured") if folder is None else Path(folder)
    return json.loads((place / f"{name}.json").read_text(encoding="utf-8"))


def state(name: str, folder: str | os.PathLike[str] | None = None) -> str:
    """ "fresh", or what is wrong with a figure's files, in a few words; if no folder is named, with the table that
    comes with the package."""
    exhibit: Exhibit = lookup("figure", name)()
    place = shipped("figures/measured") if folder is None else Path(folder)
    kinds = ("csv", "json") if folder is None else ("csv", "json", "png", "pdf")
    absent = [kind for kind in kinds if not (place / f"{name}.{kind}").is_file()]
    if absent:
        return f"missing: {', '.join(absent)}"
    then = about(name, folder)
    if then["settings"] != _as_known_then(json.loads(json.dumps(exhibit.settings())), then["settings"]):
        return "stale: its recipes have changed since it was measured"
    if then["csv"] != hashlib.sha256((place / f"{name}.csv").read_bytes()).hexdigest():
        return "stale: its table was changed by hand"
    if (then["source"], then["caption"]) != (exhibit.source, exhibit.caption):
        return "stale: its caption has changed"
    return "fresh"


def _as_known_then(settings: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Settings without the defaults of fields that a Recipe did not have when they were stored: a field that came later
    changes no figure that leaves it at its default."""
    if "defaults" not in settings:
        return settings
    then = stored.get("defaults", {})
    return {**settings, "defaults": {field: v for field, v in settings["defaults"].items() if field in then}}
