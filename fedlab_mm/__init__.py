"""Federated multimodal recommendation, to read, to teach and to measure."""

# Importing a family's package registers its members.
import fedlab_mm.aggregation
import fedlab_mm.backbones
import fedlab_mm.centralised
import fedlab_mm.data
import fedlab_mm.methods
import fedlab_mm.simulation  # noqa: F401
from fedlab_mm.api import (
    attack,
    available,
    compare,
    count_parameters,
    load,
    load_run,
    paired,
    rounds,
    show,
    train,
    tune,
    untrained,
)
from fedlab_mm.audit import audit
from fedlab_mm.data.folder import save_dataset
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.evaluation import evaluate, evaluate_users, recommended
from fedlab_mm.geometry import modality_gap
from fedlab_mm.privacy import epsilon, noise_multiplier
from fedlab_mm.records import ClickLog, Dataset, Recipe, RoundRecord, Run

__all__ = [
    "ClickLog",
    "Dataset",
    "DivergedError",
    "FedlabError",
    "Recipe",
    "RoundRecord",
    "Run",
    "attack",
    "audit",
    "available",
    "compare",
    "count_parameters",
    "epsilon",
    "evaluate",
    "evaluate_users",
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
