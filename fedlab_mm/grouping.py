"""Groups of clients, by what the server has been shown of each: GFMFR, section 4.2.

| paper | here |
|---|---|
| P_u, the prediction function of a client | a row of `vectors_CK` |
| g, the number of groups | `n_groups`, or chosen by silhouette |
| group l of a client | a label in 0 … g − 1; −1: the client has shown nothing yet |
"""

import warnings

import numpy as np

from fedlab_mm.registry import lookup, register
from fedlab_mm.threads import single

KEPT = 0.95  # share of the variance that the principal components keep
MOST = 8  # groups that a choice by silhouette goes up to


def components(vectors_CK: np.ndarray) -> np.ndarray:
    """Columns standardised, then the principal components that keep 95 % of the variance: [C, K'].

    >>> components(np.array([[0.0, 1, 5], [2, 1, 9], [4, 1, 13]])).shape  # one column is constant, two go together
    (3, 1)
    """
    from sklearn.decomposition import PCA

    spread_K = vectors_CK.std(axis=0)
    vectors_CK = (vectors_CK - vectors_CK.mean(axis=0))[:, spread_K > 1e-12] / spread_K[spread_K > 1e-12]
    if not vectors_CK.size:
        return np.zeros((len(vectors_CK), 1))
    return PCA(n_components=KEPT, svd_solver="full").fit_transform(vectors_CK)


def split(vectors_CK: np.ndarray, n_groups: int | None, clustering: str, seed: int) -> np.ndarray:
    """A label for each client: int [C]. Never more groups than there are different vectors.

    Args:
        n_groups: g; None for the number between 2 and 8 with the highest mean silhouette.
        clustering: a registered one.
    """
    with single():
        return _split(vectors_CK, n_groups, clustering, seed)


def _split(vectors_CK: np.ndarray, n_groups: int | None, clustering: str, seed: int) -> np.ndarray:
    from sklearn.metrics import silhouette_score

    points_CK = components(vectors_CK)
    different = len(np.unique(points_CK.round(9), axis=0))
    if n_groups is None:
        candidates = [g for g in range(2, MOST + 1) if g < min(different, len(points_CK))]
        labels = {g: _cluster(points_CK, g, clustering, seed) for g in candidates}
        scores = {g: silhouette_score(points_CK, of) for g, of in labels.items() if len(np.unique(of)) > 1}
        return labels[max(scores, key=scores.__getitem__)] if scores else np.zeros(len(points_CK), dtype=np.int64)
    return _cluster(points_CK, min(n_groups, different), clustering, seed)


def aligned(labels_C: np.ndarray, before_C: np.ndarray, n_groups: int) -> np.ndarray:
    """The same groups under names that keep as many clients as can be under the name they had (the Hungarian method).

    Args:
        before_C: the labels of the round before, −1 where there was none.

    >>> aligned(np.array([0, 0, 1, 1]), np.array([1, 1, 0, -1]), 2)
    array([1, 1, 0, 0])
    """
    from scipy.optimize import linear_sum_assignment

    shared_GG = np.zeros((n_groups, n_groups))
    known_C = before_C >= 0
    np.add.at(shared_GG, (labels_C[known_C], before_C[known_C]), 1)
    _, name_G = linear_sum_assignment(-shared_GG)
    return name_G[labels_C]


def _cluster(points_CK: np.ndarray, n_groups: int, clustering: str, seed: int) -> np.ndarray:
    if n_groups <= 1:
        return np.zeros(len(points_CK), dtype=np.int64)
    drawn = seed % 2**32  # more scikit-learn does not take
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct points than groups, and of graphs in several pieces
        return lookup("clustering", clustering)(points_CK, n_groups, drawn).astype(np.int64)


@register("clustering", "kmeans")
def by_kmeans(points_CK: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """K-means, the best of ten starts."""
    from sklearn.cluster import KMeans

    return KMeans(n_groups, n_init=10, random_state=seed).fit_predict(points_CK)


@register("clustering", "spectral")
def by_spectrum(points_CK: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Spectral clustering, with a Gaussian kernel as wide as the median distance."""
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import pairwise_distances

    distance_CC = pairwise_distances(points_CK)
    width = np.median(distance_CC[distance_CC > 0]) if (distance_CC > 0).any() else 1.0
    kernel_CC = np.exp(-((distance_CC / width) ** 2) / 2)
    spectral = SpectralClustering(n_groups, affinity="precomputed", random_state=seed, assign_labels="kmeans")
    return spectral.fit_predict(kernel_CC)
