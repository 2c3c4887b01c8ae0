"""The choice of threads for a federation's rounds and evaluations."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from fedlab_mm.recipe import Recipe
from fedlab_mm.threads import paced


def pace(federation: Any, work: str) -> AbstractContextManager[None]:
    """One choice for all that cost the same."""
    if federation.device.type != "cpu":
        return nullcontext()
    data = federation.data
    return paced(work, data.task, data.n_users, data.n_items, len(data.interactions), _alike(federation.recipe))


@cache
def _alike(recipe: Recipe) -> Recipe:
    """One for all recipes whose rounds cost the same."""
    return recipe.but(seed=0, lr=None, shared_lr=None, weight_decay=0.0, rounds=1)
