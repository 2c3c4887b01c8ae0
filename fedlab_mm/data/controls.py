"""What stands beside a claim that content helps: the same data with content that says nothing.

A model with features may gain by having more parameters, by another start, by another geometry. What it gains by *what
the features say* it loses when every item gets another item's features.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup, register

Control = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def controlled(data: Dataset, control: str, seed: int = 0) -> Dataset:
    """The dataset with its features under a control.

    Args:
        control: a registered one: "shuffled", each item with the features of another, all modalities of one item
            together; "noise", Gaussian numbers with each column's mean and spread.

    Raises:
        FedlabError: an unknown control, data without features.

    >>> from fedlab_mm import load
    >>> toy = load("toy")
    >>> other = controlled(toy, "shuffled")
    >>> bool(torch.equal(other.features["image"].sort(dim=0)[0], toy.features["image"].sort(dim=0)[0]))
    True
    """
    if not getattr(data, "features", None):
        raise FedlabError(f"control '{control}': {data.name} has no features to put under one")
    put: Control = lookup("control", control)
    features = {m: put(f, np.random.default_rng([seed, 0x63])) for m, f in data.features.items()}
    return dataclasses.replace(data, features=features, about={**data.about, "control": f"{control}, seed {seed}"})


@register("control", "shuffled")
def shuffled(feature_Id: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each item with the features of another; drawn alike for all modalities."""
    return feature_Id[torch.from_numpy(rng.permutation(len(feature_Id)))]


@register("control", "noise")
def noise(feature_Id: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gaussian numbers with the mean and the spread of each column."""
    drawn_Id = torch.from_numpy(rng.normal(size=tuple(feature_Id.shape))).to(feature_Id)
    return feature_Id.mean(dim=0) + feature_Id.std(dim=0) * drawn_Id
