"""The server's memory of who is in which group, and what it makes of a round's uploads: GFMFR, sections 4.2 and 4.3."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.aggregation import Aggregation, by_group
from fedlab_mm.draws import keys, uniforms
from fedlab_mm.errors import FedlabError
from fedlab_mm.grouping import aligned, split
from fedlab_mm.methods import Method
from fedlab_mm.methods.gfmfr import GFMFR

SALT = 0x6F47
BEHAVIOUR = 32  # components of the features that behaviour is described by


@dataclass
class Uploads:
    """What a round's clients uploaded of their items, pair by pair, and showed.

    Attributes:
        clients: [C]; n_samples: [C].
        user_P, item_P: who changed which row; change_PW: by how much.
        shown_CK: their prediction functions, flat.
    """

    clients: np.ndarray
    n_samples: np.ndarray
    user_P: Tensor
    item_P: Tensor
    change_PW: Tensor
    shown_CK: Tensor


class Groups:
    """Groups of clients, from all that each has shown when it last took part.

    Attributes:
        group_U: int64 [U], −1 for a client that was never there.
        shown_UK: what each showed last; behaviour_UK: the sum of the features of all rows that it has sent, and
            n_rows_U their number.

    Raises:
        FedlabError: more groups than a round has clients.
    """

    def __init__(self, method: GFMFR, n_users: int, n_wanted: int):
        r = method.recipe
        if (r.groups or 1) > n_wanted:
            raise FedlabError(f"groups={r.groups}: a round has {n_wanted} clients; lower groups, or raise clients")
        self.method, self.recipe, self.n_groups = method, r, method.n_groups
        self.group_U = np.full(n_users, -1, dtype=np.int64)
        width = sum(method.client.get_parameter(n).numel() for n in method.shown)
        self.shown_UK = torch.zeros(n_users, width, dtype=r.dtype)
        self.n_rows_U = torch.zeros(n_users, dtype=torch.float64)
        self.features_IK = torch.zeros(method.n_items, 0)
        if r.grouping == "behaviour":
            from sklearn.decomposition import PCA

            joined = torch.cat([f.cpu().double() for f in method.inputs().values()], dim=1).numpy()
            n = min(BEHAVIOUR, *joined.shape)
            self.features_IK = torch.from_numpy(PCA(n, svd_solver="full").fit_transform(joined))
        self.behaviour_UK = torch.zeros(n_users, self.features_IK.shape[1], dtype=torch.float64)

    def columns(self, users: Tensor) -> Tensor:
        """Which column of `preferences` each of some clients is sent: its group's, or the last."""
        group = torch.from_numpy(self.group_U).to(users.device)[users]
        return torch.where(group < 0, self.n_groups, group)

    def update(self, uploads: Uploads, table_IW: Tensor, rule: Aggregation) -> None:
        """Group everybody seen so far, mix this round's rows by group, fit the fusions, make the preferences.

        A group of which nobody took part keeps its fusion and what it preferred.

        Args:
            table_IW: the item table that the round's clients were sent.
        """
        clients = torch.from_numpy(uploads.clients)
        self.shown_UK[clients] = uploads.shown_CK.cpu()
        if self.features_IK.shape[1]:
            self.behaviour_UK.index_add_(0, uploads.user_P.cpu(), self.features_IK[uploads.item_P.cpu()])
        self.n_rows_U.index_add_(0, uploads.user_P.cpu(), torch.ones(len(uploads.user_P), dtype=torch.float64))
        known = np.union1d(np.flatnonzero(self.group_U >= 0), uploads.clients)
        self.group_U[known] = self._grouped(known)

        matrix_GC = by_group(rule, uploads.n_samples, self.group_U[uploads.clients], self.n_groups)
        weight_U = np.zeros(len(self.group_U))
        weight_U[uploads.clients] = matrix_GC.sum(axis=0)
        weight_P = torch.from_numpy(weight_U)[uploads.user_P.cpu()].to(table_IW)
        group_P = torch.from_numpy(self.group_U)[uploads.user_P.cpu()].to(table_IW.device)
        preferences_IG = self.method.shared.get_buffer("preferences")
        there = np.flatnonzero(matrix_GC.any(axis=1)).tolist()
        targets = []
        for group in there:
            here = group_P == group
            targets.append(table_IW.index_add(0, uploads.item_P[here], weight_P[here, None] * uploads.change_PW[here]))
        self.method.fit(there, torch.stack(targets))
        for group in there:
            members = torch.from_numpy(np.flatnonzero(self.group_U == group))
            mean_K = self.shown_UK[members].mean(dim=0).to(table_IW)
            preferences_IG[:, group] = self.method.prefer(group, mean_K)

    def _grouped(self, known: np.ndarray) -> np.ndarray:
        r = self.recipe
        if r.grouping == "random":
            drawn = uniforms(keys(r.seed, 0, known, SALT)[:, None], np.arange(1))[:, 0]
            return (drawn * self.n_groups).astype(np.int64).clip(max=self.n_groups - 1)
        if r.grouping == "behaviour":
            vectors = (self.behaviour_UK / self.n_rows_U.clamp(min=1)[:, None])[known].numpy()
        else:
            vectors = self.shown_UK[known].double().numpy()
        labels = split(vectors, r.groups, r.clustering, r.seed)
        return aligned(labels, self.group_U[known], self.n_groups)

    def state(self) -> dict[str, Tensor]:
        return {
            "groups.of": torch.from_numpy(self.group_U.copy()),
            "groups.shown": self.shown_UK.clone(),
            "groups.rows": self.n_rows_U.clone(),
            "groups.behaviour": self.behaviour_UK.clone(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.group_U[:] = state["groups.of"].numpy()
        for name, tensor in (("shown", self.shown_UK), ("rows", self.n_rows_U), ("behaviour", self.behaviour_UK)):
            tensor.copy_(state[f"groups.{name}"])


def groups_of(method: Method, n_users: int, n_wanted: int) -> Groups | None:
    """A method's groups, where it has any."""
    return Groups(method, n_users, n_wanted) if isinstance(method, GFMFR) else None
