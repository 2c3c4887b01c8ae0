"""Federated multimodal recommendation, to read, to teach and to measure."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedlab_mm.version import __version__

if TYPE_CHECKING:  # what `__getattr__` below gives at run time
    from fedlab_mm.audit import audit
    from fedlab_mm.data.folder import save_dataset
    from fedlab_mm.data.frames import from_frames
    from fedlab_mm.data.load import load
    from fedlab_mm.errors import DivergedError, FedlabError
    from fedlab_mm.evaluation import evaluate, evaluate_users, recommended
    from fedlab_mm.experiments.attack import attack
    from fedlab_mm.experiments.compare import compare, paired, show
    from fedlab_mm.experiments.count import count_parameters
    from fedlab_mm.experiments.run import Run, load_run
    from fedlab_mm.experiments.train import rounds, train, untrained
    from fedlab_mm.experiments.tune import tune
    from fedlab_mm.geometry import modality_gap
    from fedlab_mm.interrupts import Interrupted
    from fedlab_mm.privacy import epsilon, noise_multiplier
    from fedlab_mm.recipe import Recipe
    from fedlab_mm.records import ClickLog, Dataset, RoundRecord
    from fedlab_mm.registry import available

__all__ = [
    "ClickLog",
    "Dataset",
    "DivergedError",
    "FedlabError",
    "Interrupted",
    "Recipe",
    "RoundRecord",
    "Run",
    "__version__",
    "attack",
    "audit",
    "available",
    "compare",
    "count_parameters",
    "epsilon",
    "evaluate",
    "evaluate_users",
    "from_frames",
    "load",
    "load_run",
    "modality_gap",
    "noise_multiplier",
    "paired",
    "recommended",
    "rounds",
    "save_dataset",
    "show",
    "train",
    "tune",
    "untrained",
]

# torch takes a second to import, so it waits until a name is asked for.
_HOMES = {
    "audit": "audit",
    "data.folder": "save_dataset",
    "data.frames": "from_frames",
    "data.load": "load",
    "errors": "DivergedError FedlabError",
    "evaluation": "evaluate evaluate_users recommended",
    "experiments.attack": "attack",
    "experiments.compare": "compare paired show",
    "experiments.count": "count_parameters",
    "experiments.run": "Run load_run",
    "experiments.train": "rounds train untrained",
    "experiments.tune": "tune",
    "geometry": "modality_gap",
    "interrupts": "Interrupted",
    "privacy": "epsilon noise_multiplier",
    "recipe": "Recipe",
    "records": "ClickLog Dataset RoundRecord",
    "registry": "available",
}
_HOME = {name: module for module, listed in _HOMES.items() for name in listed.split()}


class _Package(ModuleType):
    """A module of the package may have the name of one of its functions, as `audit` has: the function keeps it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _submodule(name)
    value = getattr(importlib.import_module(f"fedlab_mm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def _submodule(name: str) -> Any:
    path = f"fedlab_mm.{name}"
    try:
        if name.startswith("_"):
            raise ModuleNotFoundError(name=path)
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # it is there, and what it needs is not
            raise
        raise AttributeError(f"module 'fedlab_mm' has no attribute '{name}'") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
