"""No fusion: the backbone over one table of item IDs."""

import torch
from torch import Tensor, nn

from fedlab_mm.methods.base import Client, Method, Parameters
from fedlab_mm.records import Recipe, Upload
from fedlab_mm.registry import register


class ItemTable(nn.Module):
    """D, one row an item: [I, D]."""

    def __init__(self, n_items: int, dim: int, init_scale: float):
        super().__init__()
        self.item_table = nn.Parameter(init_scale * torch.randn(n_items, dim))


@register("method", "none")
class NoFusion(Method):
    """The ID-based recommender as it is (FedMR's Eq. 2): a client trains its predictor and its copy of D's touched rows
    and uploads those rows; the server averages, D ← Σ_u α_u D^(u) (FedMR's Algorithm 1, line 7).

    A row that a client did not touch counts as unchanged, D^(u)_i = D_i.
    """

    upload = "item_table"

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        self.client = Client(self.backbone_of(recipe))
        self.shared = ItemTable(n_items, recipe.dim, recipe.init_scale)

    def broadcast(self) -> Tensor:
        return self.shared.get_parameter("item_table")[None]

    def client_update(
        self, private: dict[str, Tensor], views_END: Tensor, own: Tensor, sampled_N: Tensor, labels_N: Tensor
    ) -> tuple[float, Tensor]:
        optimizer, epochs, mean_loss = self.local_optimizer(), self.recipe.local_epochs, 0.0
        rows_1ND = views_END.clone()
        for _ in range(epochs):
            loss, gradients, of_rows = self.local_gradients(private, rows_1ND, own, sampled_N, labels_N)
            optimizer.step({**private, "item_table": rows_1ND}, {**gradients, "item_table": of_rows})
            mean_loss += loss / epochs
        return mean_loss, rows_1ND

    def contribution(self, upload: Upload, views_EID: Tensor) -> Tensor:
        return upload.values[self.upload] - views_EID[:, upload.rows]

    def server_update(self, views_EID: Tensor, mixed_EID: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        with torch.no_grad():
            self.shared.get_parameter("item_table").add_(mixed_EID[0])

    def id_lr_scale(self) -> float:
        return float(self.n_items)
