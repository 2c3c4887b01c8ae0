"""Weights that grow with the root of a client's samples."""

import numpy as np

from fedlab_mm.aggregation import Aggregation
from fedlab_mm.registry import register


@register("aggregation", "root")
class Root(Aggregation):
    def matrix(self, n_samples_C):
        weight_C = np.sqrt(n_samples_C)
        return (weight_C / weight_C.sum())[None]
