"""How a server mixes what its clients sent.

A rule answers with a matrix, one row a group, one column a client, rows that sum to one: group g receives
Σ_c matrix_GC[g, c] · upload_c. Means have one group. Sensitivity for differential privacy follows from the same matrix:
the most that one client can move a group is its largest entry times the bound on an upload.
"""

from typing import ClassVar

import numpy as np

from fedlab_mm.registry import register


class Aggregation:
    """`matrix(n_samples_C) -> float64 [G, C]`, rows sum to one.

    Class attributes:
        blind: do the weights depend on nothing but the number of clients? Differential privacy needs that.
    """

    blind: ClassVar[bool] = False

    def matrix(self, n_samples_C: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@register("aggregation", "weighted")
class Weighted(Aggregation):
    """α_u = n_u / Σ n: by the number of samples, FedAvg's mean (McMahan et al. 2017).

    >>> Weighted().matrix(np.array([1, 3]))
    array([[0.25, 0.75]])
    """

    def matrix(self, n_samples_C: np.ndarray) -> np.ndarray:
        return (n_samples_C / n_samples_C.sum())[None]


@register("aggregation", "equal")
class Equal(Aggregation):
    """α_u = 1 / C: every client alike.

    >>> Equal().matrix(np.array([1, 3]))
    array([[0.5, 0.5]])
    """

    blind = True

    def matrix(self, n_samples_C: np.ndarray) -> np.ndarray:
        return np.full((1, len(n_samples_C)), 1 / len(n_samples_C))


def by_group(rule: Aggregation, n_samples_C: np.ndarray, group_C: np.ndarray, n_groups: int) -> np.ndarray:
    """A rule within each group: [G, C], block-structured, zero between a group and a client of another. A row sums to
    one, or to zero where the group has no client here.

    >>> by_group(Weighted(), np.array([1, 3, 5]), np.array([0, 0, 2]), 3)
    array([[0.25, 0.75, 0.  ],
           [0.  , 0.  , 0.  ],
           [0.  , 0.  , 1.  ]])
    """
    matrix_GC = np.zeros((n_groups, len(group_C)))
    for group in np.unique(group_C[group_C >= 0]):
        members = np.flatnonzero(group_C == group)
        matrix_GC[group, members] = rule.matrix(n_samples_C[members])[0]
    return matrix_GC
