"""FedVLR: Li et al., "Federated Vision-Language-Recommendation with Personalized Fusion". Its Algorithm 1.

| paper | here |
|---|---|
| F_j = g_j(V, C, D; γ_j), line 4 (Eq. 2) | `broadcast`, "views" |
| θ_u, φ_u | the client's `backbone.*` and `router.*`, private |
| ∇_D^(u), ∇_j^(u) γ, lines 7–8 of PersonalizedRefinement | the accumulated gradients of the views, pulled back |
| lines 8–9 of MultiStrategyFusion | `server_update` |

A client that holds views only cannot form ∇_D^(u) and ∇_j^(u) γ. It uploads ∂L_u/∂F, summed over its local epochs (the
views stand still meanwhile), and the chain rule does the rest on the server, once for all clients:
Σ_u α_u ∇γ^(u) = (∂F/∂γ)ᵀ Σ_u α_u ∂L_u/∂F.
"""

from fedlab_mm.methods.parts import Parameters
from fedlab_mm.methods.serverside import BankOnServer, ServerSide
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.routing import Router


@register("method", "fedvlr")
class FedVLR(ServerSide):
    """Views are made on the server; each client keeps a router among them and a predictor."""

    routes = True

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        fusion = BankOnServer(recipe, n_items, self.features, self.signals, list(recipe.operators))
        self.build_around(fusion, recipe.dim, Router(len(fusion.bank.views), recipe.dim))
