"""Item-KNN: items like those the user has. Sarwar et al., WWW 2001."""

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.centralised.base import Baseline, interaction_matrix
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register


@register("baseline", "itemknn")
class ItemKNN(Baseline):
    """s_ui = Σ_{j ∈ u} cos(i, j), over all of the user's training items and no neighbourhood cut.

    cos(i, j) is the number of users who hold both over the geometric mean of the numbers who hold each.
    """

    def scores(self, data: Dataset) -> Tensor:
        users_by_items = interaction_matrix(data)
        together_II = (users_by_items.T @ users_by_items).toarray()
        norms_I = np.sqrt(np.maximum(np.diag(together_II), 1))
        cosine_II = together_II / norms_I[:, None] / norms_I
        np.fill_diagonal(cosine_II, 0)
        return torch.from_numpy(users_by_items @ cosine_II)
