"""Clients side by side: the items that a round's clients touch, and a chunk of clients that train on theirs.

Their items are padded to the longest of the chunk (clients are taken in the order of how many items they touch, so that
little is padded). A chunk gathers the item rows that it touches once a round and stays in cache through all local
epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples
from fedlab_mm.federation.channel import like
from fedlab_mm.federation.ranking import RankingFederation
from fedlab_mm.federation.state import RankOne
from fedlab_mm.methods.parts import Batch


@dataclass(frozen=True)
class Touched:
    """The items that a round's clients touch, each once, flat: client c's lie at indptr[c] to indptr[c + 1], ascending.

    Client c samples item i so many times (`count_P`), always with one label (a negative is never one of its positives).
    """

    indptr: np.ndarray
    items_P: Tensor
    count_P: Tensor
    label_P: Tensor
    samples: Samples

    @classmethod
    def of(cls, samples: Samples, n_items: int, device: torch.device, dtype: torch.dtype) -> "Touched":
        lengths = samples.lengths
        client = np.repeat(np.arange(len(lengths)), lengths)
        keys = np.sort((client * n_items + samples.items) * 2 + samples.labels)
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        pairs, labels = keys[first] // 2, keys[first] % 2
        indptr = np.searchsorted(pairs, np.arange(len(lengths) + 1) * n_items)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device, dtype)

        return cls(
            indptr,
            torch.from_numpy(pairs % n_items).to(device),
            tensor(np.diff(first, append=len(keys))),
            tensor(labels),
            samples,
        )

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.indptr)


@dataclass
class Chunk:
    """Some of a round's clients and what they are trained on.

    Attributes:
        clients: who they are; users: the same, on the device.
        n_samples_C: how many samples each has.
        rows_CN: their items; there_CN: false where a row is padding (its shares are zero, so it changes nothing).
        batch: shares, labels and the router's shares of those rows.
        alpha_C: their weights in the aggregation.
        private: name -> [C, …], copies, which a kernel moves in place or replaces by how they change.
        personal_CNW: their personal rows, which a kernel moves in place.
    """

    clients: np.ndarray
    users: Tensor
    n_samples_C: np.ndarray
    rows_CN: Tensor
    there_CN: Tensor
    batch: Batch
    alpha_C: Tensor
    private: dict[str, Tensor | RankOne]
    personal_CNW: Tensor | None

    @classmethod
    def of(
        cls, federation: RankingFederation, touched: Touched, clients: np.ndarray, chosen: np.ndarray, alpha_C: Tensor
    ) -> "Chunk":
        """The clients at the positions `chosen` among the round's `clients`."""
        lengths, device = touched.lengths[chosen], federation.device
        there = np.arange(lengths.max(initial=1)) < lengths[:, None]
        where_CN = torch.from_numpy(np.where(there, touched.indptr[chosen][:, None] + np.arange(there.shape[1]), 0)).to(
            device
        )
        there_CN, picked = torch.from_numpy(there).to(device), torch.from_numpy(chosen).to(device)
        label_CN = touched.label_P[where_CN] * there_CN
        rows_CN = touched.items_P[where_CN]
        n_samples_C = touched.samples.lengths[chosen]
        n_positives_C = touched.samples.n_positives[chosen]

        def each(count_C: np.ndarray) -> Tensor:
            return torch.from_numpy(count_C[:, None]).to(touched.count_P)

        batch = Batch(
            share_N=touched.count_P[where_CN] * there_CN / each(n_samples_C),
            label_N=label_CN,
            own_N=label_CN / each(n_positives_C),
        )
        users, personal = torch.from_numpy(clients[chosen]).to(device), None
        if federation.personal is not None:
            personal = federation.personal.read(users[:, None].expand_as(rows_CN), rows_CN)
        private: dict[str, Tensor | RankOne] = {n: p[users] for n, p in federation.private.items()}
        return cls(clients[chosen], users, n_samples_C, rows_CN, there_CN, batch, alpha_C[picked], private, personal)

    def gather(self, table: Tensor) -> Tensor:
        """The rows of a table by item: [I, …] in, [C, N, …] out."""
        return table.index_select(0, self.rows_CN.flatten()).view(*self.rows_CN.shape, *table.shape[1:])

    def weighted(self, change: Tensor) -> Tensor:
        """Rows, [C, N, …], times their clients' weights, zero in padding."""
        return change * like(self.there_CN * self.alpha_C[:, None], change)


def tensors_of(private: Mapping[str, Tensor | RankOne]) -> dict[str, Tensor]:
    return {n: p for n, p in private.items() if isinstance(p, Tensor)}
