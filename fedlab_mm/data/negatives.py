"""What a client trains on in a round: its positives, and negatives drawn anew.

Each client draws from a generator of its own per (seed, round); see `draws.py`.
"""

from dataclasses import dataclass

import numpy as np

from fedlab_mm.draws import bits, keys
from fedlab_mm.records import Histories


def draw(seed: int, round: int, clients: np.ndarray, counts: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`counts[c]` whole numbers in [0, below[c]) for each client, one after the other in a flat array.

    >>> both = draw(0, 1, np.array([4, 9]), np.array([3, 2]), np.array([100, 100]))
    >>> alone = draw(0, 1, np.array([9]), np.array([2]), np.array([100]))
    >>> bool((both[3:] == alone).all())
    True
    """
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    high = bits(np.repeat(keys(seed, round, clients), counts), np.arange(len(starts)) - starts) >> np.uint64(32)
    return ((high * np.repeat(below, counts).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Samples:
    """The labelled items of a round's clients, flat: client c's are `items[indptr[c]:indptr[c + 1]]`.

    Its first `n_positives[c]` are its training items (label 1), the others negatives (label 0).
    """

    clients: np.ndarray
    indptr: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    n_positives: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.indptr)

    def of(self, c: int) -> tuple[np.ndarray, np.ndarray]:
        """Items [N] and labels [N] of the c-th client."""
        part = slice(self.indptr[c], self.indptr[c + 1])
        return self.items[part], self.labels[part]

    def take(self, chosen: np.ndarray) -> "Samples":
        """Some of the clients, by position, as samples of their own."""
        ragged = Histories(self.indptr, np.arange(len(self.items))).take(chosen)
        return Samples(
            self.clients[chosen],
            ragged.indptr,
            self.items[ragged.items],
            self.labels[ragged.items],
            self.n_positives[chosen],
        )


def sample(
    train: Histories,
    n_items: int,
    clients: np.ndarray,
    per_positive: int,
    seed: int,
    round: int,
    weights_I: np.ndarray | None = None,
) -> Samples:
    """Every positive of each client and, for each, `per_positive` negatives.

    A negative is drawn, with replacement, from the items that the user has no *training* interaction with: held-out
    items may come up, for a client must not know them apart. A user whose training items are all that there are has
    none, and trains on its positives alone.

    Args:
        train: every user's training items; clients: int64 [C], the round's users.
        weights_I: whole numbers, at least 1: how often an item is drawn, relative to the others; all alike if left out.

    >>> train = Histories.from_pairs([0, 0, 1], [0, 2, 1], n_users=2)
    >>> s = sample(train, n_items=4, clients=np.array([1, 0]), per_positive=2, seed=0, round=1)
    >>> s.labels.tolist(), s.indptr.tolist()
    ([1, 0, 0, 1, 1, 0, 0, 0, 0], [0, 3, 9])
    >>> bool(np.isin(s.items[5:], [1, 3]).all())
    True
    """
    positives = train.take(clients)
    n_C = positives.lengths
    wanted_C = np.where(n_C < n_items, per_positive * n_C, 0)

    # Item i owns the points from ends[i-1] to ends[i] of a line. A client draws from the line without its own items:
    # the k-th point that is left is k plus the points of its items p_j (sorted) that lie below, those with start(p_j) -
    # (points of its items before p_j) <= k. All clients are searched at once, each on a line of its own.
    weight_I = np.ones(n_items, dtype=np.int64) if weights_I is None else np.asarray(weights_I, dtype=np.int64)
    ends_I = np.cumsum(weight_I)
    c_of_positive = np.repeat(np.arange(len(clients)), n_C)
    own = weight_I[positives.items]
    before = np.concatenate([[0], np.cumsum(own)])  # points of all positives before each, all clients' in a row
    start_C = before[positives.indptr[:-1]]
    held_C = before[positives.indptr[1:]] - start_C
    c_of_pick = np.repeat(np.arange(len(clients)), wanted_C)
    picks = draw(seed, round, clients, wanted_C, ends_I[-1] - held_C)
    gaps = c_of_positive * ends_I[-1] + (ends_I - weight_I)[positives.items] - (before[:-1] - start_C[c_of_positive])
    n_below = np.searchsorted(gaps, c_of_pick * ends_I[-1] + picks, side="right")
    points = picks + before[n_below] - start_C[c_of_pick]
    negatives = points if weights_I is None else np.searchsorted(ends_I, points, side="right")

    rank = np.arange(len(positives.items)) - positives.indptr[c_of_positive]
    indptr = np.concatenate([[0], np.cumsum(n_C + wanted_C)])
    items = np.empty(indptr[-1], dtype=np.int64)
    labels = np.zeros(indptr[-1], dtype=np.int64)
    at_positive = indptr[c_of_positive] + rank
    labels[at_positive] = 1
    items[at_positive] = positives.items
    items[labels == 0] = negatives
    return Samples(clients, indptr, items, labels, n_C)
