"""Data in which some modalities are gone, to measure what a method makes of gaps."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset


def hide(data: Dataset, shares: Mapping[str, float], seed: int = 0) -> Dataset:
    """The dataset with a share of its items' images, titles or other features gone: in their place stands the mean of
    the others, as where a picture was never there.

    Which go is drawn for each modality alone. With the same seed a larger share takes what a smaller one took too.

    Args:
        shares: modality -> share of the items that lose it, in [0, 1).

    Raises:
        FedlabError: a modality that the data do not have, or a share outside [0, 1).

    >>> from fedlab_mm import load
    >>> hidden = hide(load("toy"), {"image": 0.4})
    >>> hidden.missing
    {'image': 200}
    """
    features, gone = dict(data.features), {}
    for modality, share in shares.items():
        if modality not in features:
            raise FedlabError(f"hide: '{data.name}' has no modality '{modality}'; it has: {', '.join(features)}")
        if not 0 <= share < 1:
            raise FedlabError(
                f"hide: share of '{modality}' is {share:g}; it must lie in [0, 1): the rest fill the gaps"
            )
        order = np.random.default_rng([seed, *modality.encode()]).permutation(data.n_items)
        chosen = torch.from_numpy(order[: round(share * data.n_items)])
        if len(chosen):
            feature = features[modality].clone()
            kept = torch.ones(data.n_items, dtype=torch.bool).index_fill_(0, chosen, False)
            feature[chosen] = feature[kept].mean(dim=0)
            features[modality], gone[modality] = feature, len(chosen)
    filled = dict.fromkeys(gone, "the mean of the others")
    return dataclasses.replace(
        data, features=features, missing={**data.missing, **gone}, filled={**data.filled, **filled}
    )
