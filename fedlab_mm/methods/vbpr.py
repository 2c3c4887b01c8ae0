"""Federated VBPR: He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016; the
"+VBPR" that FedVLR is compared with."""

import torch
from torch import Tensor, nn

from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import Inputs
from fedlab_mm.methods.parts import Parameters
from fedlab_mm.methods.serverside import ServerFusion, ServerSide
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register


class VBPRItems(ServerFusion):
    """[γ_i ; E f_i]: an item's latent factors beside a linear map of all its features, [1, I, 2·D].

    | VBPR | here |
    |---|---|
    | γ_i | `item_table` |
    | E f_i | `embed` of the features side by side |
    | γ_u, θ_u | the two halves of a linear backbone's predictor |

    The item biases β_i and β′ᵀ f_i are left out, as in the implementation that the papers count.
    """

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters, signals: list[str]):
        super().__init__()
        self.inputs = Inputs(features, recipe.feature_scale)
        if "id" in signals:
            self.item_table = nn.Parameter(recipe.init_scale * torch.randn(n_items, recipe.dim))
        if features:
            self.embed = nn.Linear(sum(f.shape[1] for f in features.values()), recipe.dim)
        self.width = recipe.dim * (("id" in signals) + bool(features))

    def forward(self) -> Tensor:
        table = [self.item_table] if hasattr(self, "item_table") else []
        return torch.cat([*table, *self._embedded(self.inputs())], dim=1)[None]

    def of_new(self, features: Parameters) -> Tensor:
        scaled = {m: self.inputs.scaled(m, f) for m, f in features.items()}
        embedded = self._embedded(scaled)
        table = [torch.zeros_like(embedded[0])] if hasattr(self, "item_table") else []
        return torch.cat([*table, *embedded], dim=1)[None]

    def _embedded(self, inputs: Parameters) -> list[Tensor]:
        return [self.embed(torch.cat(list(inputs.values()), dim=1))] if inputs else []


@register("method", "vbpr")
class FederatedVBPR(ServerSide):
    """VBPR's item side on the server, trained like FedVLR's views, and its user side on the clients, with the
    backbone's own loss in place of BPR's. Backbones are twice as wide as under the other methods."""

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        if not self.features:
            raise FedlabError("method 'vbpr' without a modality is method 'none'")
        self.items = VBPRItems(recipe, n_items, self.features, self.signals)
        self.build_around(self.items, self.items.width, None)
