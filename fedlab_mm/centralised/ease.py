"""EASE: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019."""

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.centralised.base import Baseline, interaction_matrix
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register


@register("baseline", "ease")
class EASE(Baseline):
    """S = R·B, with B the ridge regression of each item on all others.

    Steck's Eq. 8: P = (RᵀR + λ·1)⁻¹, B_ij = −P_ij / P_jj off the diagonal and 0 on it.

    Items with the same users tie exactly. Scores are rounded to ten decimals, for rounding errors would part them
    otherwise, and in another way on each processor: on KU a warm HR@50 of 0.828 was measured on one, 0.819 on another.

    Args:
        regularisation: λ.
    """

    def __init__(self, regularisation: float = 50.0):
        if not regularisation > 0:
            raise FedlabError(f"regularisation={regularisation}: must be positive")
        self.regularisation = regularisation

    def scores(self, data: Dataset) -> Tensor:
        users_by_items = interaction_matrix(data)
        gram_II = (users_by_items.T @ users_by_items).toarray()
        inverse_II = np.linalg.inv(gram_II + self.regularisation * np.eye(len(gram_II)))
        weights_II = -inverse_II / np.diag(inverse_II)
        np.fill_diagonal(weights_II, 0)
        return torch.from_numpy(users_by_items @ weights_II).round(decimals=10)
