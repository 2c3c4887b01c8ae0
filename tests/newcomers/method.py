"""A method with a parameter and a server memory of its own: clients are clustered by where their uploads point, and
each is told, item by item, what its cluster is drawn to."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.grouping import aligned, split
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.parts import Memory, Part
from fedlab_mm.registry import register
from fedlab_mm.settings import NOT_NEGATIVE, Settings, at_least, setting


@register("method", "clustered")
class Clustered(NoFusion):
    """r̂_ui = θ_u·x_i + b_u + strength · (the mean change of item i's row, along itself, among the cluster of u)."""

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            clusters: how many there are.
            strength: what a cluster's pull on an item is multiplied by.
        """

        clusters: int = setting(2, at_least(1))
        strength: float = setting(1.0, NOT_NEGATIVE)

    def __init__(self, recipe, n_items, features):
        super().__init__(recipe, n_items, features)
        self.shared.register_buffer("pull", torch.zeros(n_items, recipe.clusters + 1))
        self.parts["pull"] = Part(by_item=True, moves=False, upload=None, by_group=True)

    def broadcast(self):
        return {**super().broadcast(), "pull": self.shared.get_buffer("pull")}

    def score(self, items_NW: Tensor, local) -> Tensor:
        return super().score(items_NW, local) + self.recipe.strength * local["pull"]

    def memory(self, n_users: int, n_wanted: int) -> Memory:
        return Clusters(self, n_users)


class Clusters(Memory):
    """Each client's mean change, [U, W], and its cluster, [U]."""

    def __init__(self, method: Clustered, n_users: int):
        self.method, self.n = method, method.recipe.clusters
        self.mean_UW = torch.zeros(n_users, method.client.backbone.item_width, dtype=method.recipe.dtype)
        self.group_U = torch.full((n_users,), -1)

    def begin(self, sent) -> None:
        shape = (len(self.group_U), self.method.n_items)
        self.along_UI = torch.zeros(shape, dtype=self.method.recipe.dtype)

    def take(self, uploads) -> None:
        rows, users = uploads.changes["item_table"], torch.from_numpy(uploads.clients)
        value, length_CN = rows.real(), rows.there_CN.sum(dim=1)[:, None]
        self.mean_UW[users] = value.sum(dim=1) / length_CN
        size_CN = value.norm(dim=2)
        self.along_UI[users] = torch.zeros_like(self.along_UI[users]).scatter_add(1, rows.rows_CN, size_CN)

    def end(self, clients: np.ndarray, n_samples_C, rule) -> None:
        seen = np.union1d(np.flatnonzero(self.group_U >= 0), clients)
        labels = split(self.mean_UW[seen].double().numpy(), self.n, "kmeans", self.method.recipe.seed)
        self.group_U[seen] = torch.from_numpy(aligned(labels, self.group_U[seen].numpy(), self.n))
        for group in np.unique(self.group_U[clients]):
            members = clients[self.group_U[clients].numpy() == group]
            self.method.shared.get_buffer("pull")[:, group] = self.along_UI[members].mean(dim=0)

    def columns(self, users: Tensor) -> Tensor:
        return torch.where(self.group_U[users] < 0, self.n, self.group_U[users])

    def groups_of_users(self) -> np.ndarray:
        return self.group_U.numpy().copy()

    def state(self) -> dict[str, Tensor]:
        return {"clusters.of": self.group_U.clone(), "clusters.mean": self.mean_UW.clone()}

    def load_state(self, state) -> None:
        self.group_U.copy_(state["clusters.of"])
        self.mean_UW.copy_(state["clusters.mean"])
