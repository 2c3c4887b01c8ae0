"""Finished runs in a folder: one of this recipe, on these data, by this code, is read back instead of trained again."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from fedlab_mm.experiments.run import Run, free_folder, load_run
from fedlab_mm.interrupts import Interrupted
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, Dataset
from fedlab_mm.version import __version__


def kept(
    recipe: Recipe, data: Dataset | ClickLog, resume: Run | None, cache: Path, train: Callable[[Run | None], Run]
) -> Run:
    """A run from the cache, or trained and put there; what an interruption leaves stands beside it until then."""
    place = cache / _key(recipe, data)
    if place.is_dir():
        return load_run(place, data, device=recipe.device)
    place = free_folder(place)  # before the work is done, not after
    begun = place.with_name(f"{place.name}-begun")
    if resume is None and begun.is_dir():
        resume = load_run(begun, data, device=recipe.device)
    try:
        run = train(resume)
    except Interrupted as stopped:
        if stopped.run is not None:
            stopped.run.save(begun)
        raise
    run.save(place)
    shutil.rmtree(begun, ignore_errors=True)
    return run


def _key(recipe: Recipe, data: Dataset | ClickLog) -> str:
    """The name of a run in a cache: it changes with all that decides the run."""
    about = f"{recipe.to_json()} {data.fingerprint} {__version__} {recipe.code}"
    return f"{recipe.backbone}-{recipe.method}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
