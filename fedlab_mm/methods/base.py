"""What a method is to the engines: the modules of server and client, and the two halves of the algorithm."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedlab_mm.backbones import Backbone
from fedlab_mm.methods.optimizers import LocalOptimizer
from fedlab_mm.records import Recipe, Upload
from fedlab_mm.registry import lookup
from fedlab_mm.routing import Router, route

Parameters = Mapping[str, Tensor]


class Client(nn.Module):
    """The modules that live on a device: the backbone and, where views are to be mixed, the router."""

    def __init__(self, backbone: Backbone, router: Router | None = None):
        super().__init__()
        self.backbone, self.router = backbone, router

    def forward(self, views_END: Tensor, own: Tensor) -> Tensor:
        """Logits [N] of the items whose views these are; `own` picks the user's training items among them."""
        if self.router is None:
            return self.backbone(views_END[0])
        return self.backbone(route(self.router(views_END[:, own]), views_END))


class Method:
    """A placement of fusion. A subclass registers as "method".

    Attributes:
        shared: module with the parameters that the server holds.
        client: a client's modules in their common initial state; engines keep each client's own values.
        upload: the name of what a client sends for the rows it touched.

    Args:
        recipe: sizes, operators, learning rates.
        n_items: I.
        features: modality -> [I, d_m]; tensors on the meta device will do for counting.
    """

    upload: ClassVar[str]
    shared: nn.Module
    client: Client

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        self.recipe, self.n_items = recipe, n_items

    def broadcast(self) -> Tensor:
        """What the server sends: views_EID, with the graph that `server_update` pulls gradients back through."""
        raise NotImplementedError

    def client_update(
        self, private: dict[str, Tensor], views_END: Tensor, own: Tensor, sampled_N: Tensor, labels_N: Tensor
    ) -> tuple[float, Tensor]:
        """A client's A local epochs, each one full-batch step.

        Args:
            private: the client's parameters by name; moved in place.
            views_END: what was broadcast, for the rows that the client touches.
            own: which of those rows are its training items.
            sampled_N: for each sample, its row; labels_N: 1 for a positive, 0 for a negative.

        Returns:
            The loss, averaged over the epochs, and what to upload for the rows: [E, N', D].
        """
        raise NotImplementedError

    def contribution(self, upload: Upload, views_EID: Tensor) -> Tensor:
        """What an upload adds, times the client's α_u, to the mixture that `server_update` receives: [E, N', D]."""
        raise NotImplementedError

    def server_update(self, views_EID: Tensor, mixed_EID: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        """The server's step, from Σ_u α_u · contribution_u."""
        raise NotImplementedError

    def server_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser of the server's own steps; None where the server only averages."""
        return None

    def local_optimizer(self) -> LocalOptimizer:
        """A client's optimiser, fresh for a round."""
        r = self.recipe
        return LocalOptimizer(r.optimizer, r.lr, {"item_table": self.id_lr(r.optimizer)}, r.weight_decay)

    def id_lr(self, optimizer: str) -> float:
        """The learning rate of the rows of D; Adam, whose steps do not depend on a gradient's size, needs no scale."""
        if optimizer == "adam":
            return self.recipe.shared_lr
        scale = self.recipe.id_lr_scale
        return self.recipe.shared_lr * (self.id_lr_scale() if scale is None else scale)

    def id_lr_scale(self) -> float:
        """What multiplies shared_lr for the rows of D under SGD, unless the recipe says."""
        raise NotImplementedError

    def local_gradients(
        self, private: Parameters, views_END: Tensor, own: Tensor, sampled_N: Tensor, labels_N: Tensor
    ) -> tuple[float, dict[str, Tensor], Tensor]:
        """L_u, the mean of L_recon over the samples, and its gradients: of the private parameters and of the views."""
        leaves = {name: p.detach().requires_grad_() for name, p in private.items()}
        views_END = views_END.detach().requires_grad_()
        logits = functional_call(self.client, leaves, (views_END, own))[sampled_N]
        loss = self.client.backbone.loss(logits, labels_N).mean()
        *gradients, of_views = torch.autograd.grad(loss, [*leaves.values(), views_END])
        return loss.item(), dict(zip(leaves, gradients, strict=True)), of_views

    @staticmethod
    def backbone_of(recipe: Recipe) -> Backbone:
        return lookup("backbone", recipe.backbone)(recipe.dim)
