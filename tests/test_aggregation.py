"""Every aggregation rule mixes: rows that sum to one, nothing negative, indifferent to the clients' order."""

import numpy as np
import pytest

from fedlab_mm.registry import lookup, names


@pytest.mark.parametrize("name", names("aggregation"))
def test_every_rule_mixes(name):
    n_samples = np.array([5, 1, 14, 3])
    matrix = lookup("aggregation", name)().matrix(n_samples)
    assert matrix.shape == (1, 4)
    assert (matrix >= 0).all()
    assert matrix.sum(axis=1) == pytest.approx(1)
    order = np.array([2, 0, 3, 1])
    assert lookup("aggregation", name)().matrix(n_samples[order]) == pytest.approx(matrix[:, order])
