"""What a centralised baseline answers."""

from scipy import sparse
from torch import Tensor

from fedlab_mm.records import Dataset


class Baseline:
    """`scores(data) -> scores_UI`, from training interactions alone. Registers as "baseline"."""

    def scores(self, data: Dataset) -> Tensor:
        raise NotImplementedError


def interaction_matrix(data: Dataset) -> sparse.csr_matrix:
    """R, float64 [U, I]: 1 where a user has a training interaction with an item."""
    train = data.train
    ones = (train.items * 0 + 1).astype("float64")
    return sparse.csr_matrix((ones, train.items, train.indptr), shape=(data.n_users, data.n_items))
