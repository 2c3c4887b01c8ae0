"""iALS: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, with the
regularisation of Rendle, Krichene, Zhang and Koren, "Revisiting the Performance of iALS", RecSys 2022."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fedlab_mm.centralised.base import Baseline, interaction_matrix
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register
from fedlab_mm.threads import single


@register("baseline", "ials")
class IALS(Baseline):
    """ŷ_ui = w_u·h_i, users and items solved for in turns, each exactly, of the sum over *all* pairs

        Σ_{(u,i) ∈ S} (1 − ŷ_ui)² + α₀ Σ_u Σ_i ŷ_ui² + λ (Σ_u (n_u + α₀ I)^ν ‖w_u‖² + Σ_i (n_i + α₀ U)^ν ‖h_i‖²).

    | Rendle et al. | here |
    |---|---|
    | λ | `regularisation` |
    | α₀ | `unobserved` |
    | ν | `exponent` |
    | σ* | 0.1, divided by √dim |

    The defaults were chosen on KU by validation NDCG@50.

    Raises:
        FedlabError: a number out of range.
    """

    def __init__(
        self,
        regularisation: float = 0.06,
        unobserved: float = 0.03,
        dim: int = 64,
        exponent: float = 1.0,
        sweeps: int = 16,
        seed: int = 0,
    ):
        for name, value, fits in (
            ("regularisation", regularisation, regularisation > 0),
            ("unobserved", unobserved, 0 < unobserved <= 1),
            ("dim", dim, dim >= 1),
            ("sweeps", sweeps, sweeps >= 1),
        ):
            if not fits:
                raise FedlabError(f"{name}={value}: must be positive" + (", at most 1" if name == "unobserved" else ""))
        self.regularisation, self.unobserved, self.dim = regularisation, unobserved, dim
        self.exponent, self.sweeps, self.seed = exponent, sweeps, seed

    def scores(self, data: Dataset) -> Tensor:
        users_by_items = interaction_matrix(data)
        items_by_users = users_by_items.T.tocsr()
        rng = np.random.default_rng(self.seed)
        items_ID = 0.1 / np.sqrt(self.dim) * rng.normal(size=(data.n_items, self.dim))
        with single():
            for _ in range(self.sweeps):
                users_UD = self.solved(users_by_items, items_ID)
                items_ID = self.solved(items_by_users, users_UD)
        self.factors = users_UD, items_ID
        return torch.from_numpy(users_UD @ items_ID.T)

    def objective(self, data: Dataset) -> float:
        """What is minimised, at the factors that `scores` came to last.

        Raises:
            FedlabError: `scores` was not called.
        """
        if not hasattr(self, "factors"):
            raise FedlabError("iALS has no factors yet: call scores(data) first")
        ones, (users_UD, items_ID) = interaction_matrix(data), self.factors
        own_P = (users_UD[data.train.users] * items_ID[data.train.items]).sum(axis=1)
        fit = ((1 - own_P) ** 2).sum() + self.unobserved * ((users_UD.T @ users_UD) * (items_ID.T @ items_ID)).sum()
        sides = ((ones, users_UD), (ones.T.tocsr(), items_ID))
        sizes = (self._ridges(matrix) @ (factors**2).sum(axis=1) for matrix, factors in sides)
        return float(fit + sum(sizes))

    def _ridges(self, ones: sparse.csr_matrix) -> np.ndarray:
        counts = np.diff(ones.indptr) + self.unobserved * ones.shape[1]
        return self.regularisation * counts**self.exponent

    def solved(self, ones: sparse.csr_matrix, other_ID: np.ndarray) -> np.ndarray:
        """One side, given the other: a factor for each row of a matrix of ones."""
        gram_DD = self.unobserved * (other_ID.T @ other_ID)
        solved = np.zeros((ones.shape[0], self.dim))
        for row, ridge in enumerate(self._ridges(ones)):
            own_ND = other_ID[ones.indices[ones.indptr[row] : ones.indptr[row + 1]]]
            normal_DD = gram_DD + own_ND.T @ own_ND + ridge * np.eye(self.dim)
            solved[row] = np.linalg.solve(normal_DD, own_ND.sum(axis=0))
        return solved
