"""What every experiment asks of a recipe and its data before it begins."""

import warnings
from typing import Any

from fedlab_mm.data.load import load
from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, names
from fedlab_mm.tasks import task_of


def data_of(recipe: Recipe, data: Any) -> Any:
    """The data, loaded by the recipe's name where none are given.

    Raises:
        FedlabError: the data are for another task than the recipe's backbone or method.
    """
    given = data is not None
    data = data if given else load(recipe.dataset)
    task_of(data)  # are they data at all?
    if given and data.name not in recipe.dataset and recipe.dataset in names("dataset"):
        # Not an error: a lecture may swap the data. But the recipe is what is saved, and should not tell a tale.
        warnings.warn(f"the recipe says dataset='{recipe.dataset}', the data are '{data.name}'", stacklevel=3)
    check_task(recipe, data)
    return data


def check_task(recipe: Recipe, data: Any) -> None:
    """Complain of a backbone or method that is for another task than the data."""
    task = task_of(data)
    others = [lookup("task", name).prefix for name in names("task")]
    for family in ("backbone", "method"):
        name, fitting = getattr(recipe, family), names(f"{task.prefix}{family}")
        if name not in fitting and any(name in names(f"{other}{family}") for other in others):
            raise FedlabError(
                f"{data.name} holds {task.data}, which {family} '{name}' is not for; there are: {', '.join(fitting)}"
            )
