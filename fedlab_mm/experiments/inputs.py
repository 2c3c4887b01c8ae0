"""What every experiment asks of a recipe and its data before it begins."""

import warnings
from typing import Any

from fedlab_mm.data.load import load
from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, Dataset
from fedlab_mm.registry import lookup, names


def data_of(recipe: Recipe, data: Any) -> Any:
    if data is None:
        data = load(recipe.dataset)
    elif (
        isinstance(data, Dataset | ClickLog) and data.name not in recipe.dataset and recipe.dataset in names("dataset")
    ):
        # Not an error: a lecture may swap the data. But the recipe is what is saved, and should not tell a tale.
        warnings.warn(f"the recipe says dataset='{recipe.dataset}', the data are '{data.name}'", stacklevel=3)
    kind, other = ("click ", "") if isinstance(data, ClickLog) else ("", "click ")
    for family in ("backbone", "method"):
        name = getattr(recipe, family)
        if name not in names(f"{kind}{family}") and name in names(f"{other}{family}"):
            what = "showings and clicks" if kind else "items to rank"
            raise FedlabError(
                f"{data.name} holds {what}, which {family} '{name}' is not for; there are: "
                f"{', '.join(names(f'{kind}{family}'))}"
            )
    return data


def engine_class(recipe: Recipe, data: Dataset | ClickLog) -> Any:
    """The engine for a kind of data: it ranks items, or predicts clicks."""
    return lookup("click engine" if isinstance(data, ClickLog) else "engine", recipe.engine)


def check_cutoff(recipe: Recipe, data: Dataset | ClickLog) -> None:
    if isinstance(data, Dataset) and recipe.k > data.n_items:
        raise FedlabError(f"k={recipe.k}: {data.name} has only {data.n_items} items")
