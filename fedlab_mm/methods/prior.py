"""Content that informs and does not replace: an item's ID row is drawn towards what its features say of it.

Its relatives: collaborative topic regression (Wang and Blei, KDD 2011), where an item's factor is normal about its
topics; and federated multi-view factorisation (Flanagan et al. 2020), where factors of items and of their features
share what users are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import Inputs
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.parts import Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.settings import POSITIVE, Settings, setting


@register("method", "prior")
class ContentPrior(NoFusion):
    """The ID-based recommender, whose server moves each row a share of the way to a ridge map of its features:

        D_i ← (1 − pull) D_i + pull · f(x_i),        f = argmin Σ_i ‖D_i − W x_i − b‖² + ridge · I · ‖W‖².

    x_i are an item's features side by side, standardised. Rows of items that many clients hold are held in place by
    their gradients; a row that nobody touches ends at f(x_i). An item outside the catalogue is scored by f alone.
    Clients know nothing of it: they are sent and upload what they are sent and upload without fusion.
    """

    fuses = True

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            pull: the share of the way that a row moves towards its features' map in a round, below 1.
            ridge: of the map, beside features of variance one, for each item.
        """

        pull: float = setting(0.1, POSITIVE)
        ridge: float = setting(0.1, POSITIVE)

        def check(self) -> None:
            if not self.pull < 1:
                raise FedlabError(f"pull={self.pull}: a share of the way lies below 1")

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        if not self.features:
            raise FedlabError("method 'prior' draws items towards their features, and without= leaves none")
        self.inputs = self.shared.inputs = Inputs(self.features, 1.0)
        width = sum(f.shape[1] for f in self.features.values())
        # f depends on D by one matrix for good, (XᵀX + ridge·I·1)⁻¹ Xᵀ, so it is made once.
        self.shared.register_buffer("map_dI", torch.zeros(width, n_items, dtype=torch.float64), persistent=False)
        if not self.shared.get_buffer("map_dI").is_meta:
            x_Id = self._side_by_side(self.inputs()).double()
            normal_dd = x_Id.T @ x_Id + recipe.ridge * n_items * torch.eye(width, dtype=torch.float64)
            solution_dI = torch.linalg.solve(normal_dd, x_Id.T)
            self.shared.get_buffer("map_dI").copy_(solution_dI)

    @staticmethod
    def _side_by_side(inputs: Parameters) -> Tensor:
        return torch.cat(list(inputs.values()), dim=1)

    def map_of(self, table_IW: Tensor) -> tuple[Tensor, Tensor]:
        """W [d, W] and b [W], fitted to the table."""
        mean_W = table_IW.mean(dim=0)
        return self.shared.get_buffer("map_dI") @ (table_IW - mean_W), mean_W

    @torch.no_grad()
    def expected(self) -> Tensor:
        """f(x_i) of the catalogue, as the table is now: [I, item_width]."""
        weight_dW, bias_W = self.map_of(self.shared.item_table)
        return self._side_by_side(self.inputs()) @ weight_dW + bias_W

    def server_update(self, sent: Parameters, mixed: Parameters, optimizer: torch.optim.Optimizer | None) -> None:
        super().server_update(sent, mixed, optimizer)
        with torch.no_grad():
            self.shared.item_table.lerp_(self.expected(), self.recipe.pull)

    def views_for(self, features: Parameters) -> dict[str, Tensor]:
        """Nothing but the table's rows are sent of new items."""
        return {}

    def for_new_items(self, features: Parameters) -> dict[str, Tensor]:
        parts = super().for_new_items(features)
        scaled = {m: self.inputs.scaled(m, torch.as_tensor(features[m]).to(f)) for m, f in self.features.items()}
        weight_dW, bias_W = self.map_of(self.shared.item_table.detach())
        return parts | {"item_table": self._side_by_side(scaled) @ weight_dW + bias_W}
