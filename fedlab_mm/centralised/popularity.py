"""The most popular items, for everybody."""

import torch
from torch import Tensor

from fedlab_mm.centralised.base import Baseline
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register


@register("baseline", "popularity")
class Popularity(Baseline):
    """s_ui = the number of users who hold i in training."""

    def scores(self, data: Dataset) -> Tensor:
        return torch.from_numpy(data.popularity_I).double().expand(data.n_users, -1)
