"""FedVLR: Li et al., "Federated Vision-Language-Recommendation with Personalized Fusion". Its Algorithm 1.

| paper | here |
|---|---|
| F_j = g_j(V, C, D; γ_j), line 4 (Eq. 2) | `broadcast` |
| θ_u, φ_u | the client's `backbone.*` and `router.*`, private |
| ∇_D^(u), ∇_j^(u) γ, lines 7–8 of PersonalizedRefinement | the accumulated gradients of the views, pulled back |
| lines 8–9 of MultiStrategyFusion | `server_update` |

A client that holds views only cannot form ∇_D^(u) and ∇_j^(u) γ. It uploads ∂L_u/∂F, summed over its local epochs (the
views stand still meanwhile), and the chain rule does the rest on the server, once for all clients:
Σ_u α_u ∇γ^(u) = (∂F/∂γ)ᵀ Σ_u α_u ∂L_u/∂F.
"""

from typing import Any

import torch
from torch import Tensor

from fedlab_mm.fusion import Bank
from fedlab_mm.methods.base import Client, Method, Parameters
from fedlab_mm.records import Recipe, Upload
from fedlab_mm.registry import register
from fedlab_mm.routing import Router


@register("method", "fedvlr")
class FedVLR(Method):
    """Views are made on the server; each client keeps a router among them and a predictor."""

    upload = "view_gradients"

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        self.client = Client(self.backbone_of(recipe), Router(len(recipe.operators), recipe.dim))
        self.shared = Bank(
            recipe.operators,
            features,
            n_items,
            recipe.id_dim,
            recipe.dim,
            recipe.feature_scale,
            recipe.init_scale,
        )

    def broadcast(self) -> Tensor:
        return self.shared()

    def client_update(
        self, private: dict[str, Tensor], views_END: Tensor, own: Tensor, sampled_N: Tensor, labels_N: Tensor
    ) -> tuple[float, Tensor]:
        optimizer, epochs, mean_loss = self.local_optimizer(), self.recipe.local_epochs, 0.0
        accumulated_END = torch.zeros_like(views_END)
        for _ in range(epochs):  # line 3
            loss, gradients, of_views = self.local_gradients(private, views_END, own, sampled_N, labels_N)  # line 4
            optimizer.step(private, gradients)  # lines 5, 6: θ_u and φ_u
            accumulated_END += of_views  # lines 7, 8, before the chain rule
            mean_loss += loss / epochs
        return mean_loss, accumulated_END

    def contribution(self, upload: Upload, views_EID: Tensor) -> Tensor:
        return upload.values[self.upload]

    def server_update(self, views_EID: Tensor, mixed_EID: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        assert optimizer is not None
        optimizer.zero_grad()
        views_EID.backward(mixed_EID)
        optimizer.step()

    def id_lr_scale(self) -> float:
        return 30.0

    def server_optimizer(self) -> torch.optim.Optimizer:
        r = self.recipe
        kind = torch.optim.SGD if r.server_optimizer == "sgd" else torch.optim.Adam
        of_ids = [self.shared.get_parameter("id_embedding")]
        others = [p for name, p in self.shared.named_parameters() if name != "id_embedding"]
        groups: list[dict[str, Any]] = [{"params": of_ids, "lr": self.id_lr(r.server_optimizer)}, {"params": others}]
        return kind(groups, lr=r.shared_lr, weight_decay=r.weight_decay)
