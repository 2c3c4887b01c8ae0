"""A loss over the whole catalogue, and the client that solves it: what FCF's clients do (Ammad-ud-din et al. 2019).

With positives S_u, weight α₀ of every item and regularisation λ, client u minimises (Rendle et al. 2022, ν = 1)

    L_u = Σ_{i ∈ S_u} (1 − s_ui)² + α₀ Σ_i s_ui² + λ (n_u + α₀ I) ‖θ_u‖² + λ (Σ_{i ∈ S_u} ‖x_i‖² + α₀ Σ_i ‖x_i‖²),

whose mean over clients is iALS's objective. A score is linear in the item, s_ui = q_u·x_i, with q_u = θ_u, or w_u ⊗ θ_u
where a router mixes views. So all that the sums over all items depend on is the Gram matrix G = Σ_i x_i x_iᵀ:

    Σ_i s_ui² = q_uᵀ G q_u,        Σ_i ‖x_i‖² = tr G.

The server sends G with the items. A client uploads its gradient with respect to the rows of its own items and with
respect to G, which is α₀ q_u q_uᵀ + λ α₀ 1: a matrix of K × K numbers, never a dense table. The server pulls both back
through what it sent; through G = XᵀX the second becomes 2 X ∂L/∂G.

| symbol | here |
|---|---|
| α₀, λ | the recipe's `unobserved`, `reg` |
| x_i | a row of "item_table", or of "views" with its E views side by side, [K] |
| G | the part "gram" |
"""

import torch
from torch import Tensor

from fedlab_mm.backbones import Backbone, LinearBackbone
from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe

GRAM = "gram"


def gram_of(items_IK: Tensor) -> Tensor:
    """Σ_i x_i x_iᵀ, [K, K].

    >>> gram_of(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[1., 2.],
            [2., 5.]])
    """
    return items_IK.T @ items_IK


def refuse_what_is_not_linear(recipe: Recipe, backbone: Backbone, fits: bool) -> None:
    """
    Raises:
        FedlabError: a score that is not the same linear function of an item for the whole catalogue.
    """
    told = f"loss='{recipe.loss}'" + (" with solver='closed'" if recipe.solver == "closed" else "")
    if not isinstance(backbone, LinearBackbone) or type(backbone).forward is not LinearBackbone.forward:
        raise FedlabError(f"{told} needs a score that is linear in the item, and that of '{recipe.backbone}' is not")
    if backbone.personal_table or backbone.keeps_items:
        raise FedlabError(f"{told} needs items that are the same to all clients, and '{recipe.backbone}' keeps its own")
    if not fits:
        raise FedlabError(
            f"{told} needs items that stand still while a client trains: method '{recipe.method}' trains them there, "
            "or has a loss that is no square; none, mlp, vbpr and fedvlr do"
        )


def solved(rows_NK: Tensor, label_N: Tensor, gram_KK: Tensor, unobserved: float, ridge: Tensor) -> Tensor:
    """θ = argmin Σ_n label_n (1 − θ·x_n)² + α₀ θᵀGθ + ridge ‖θ‖², [K]; leading axes of clients are carried along.

    Raises:
        FedlabError: the system is singular, or not finite.

    >>> solved(torch.eye(2), torch.tensor([1.0, 0.0]), torch.eye(2), 0.5, torch.tensor(0.5))
    tensor([0.5000, 0.0000])
    """
    own_NK = rows_NK * label_N.unsqueeze(-1)
    eye_KK = torch.eye(rows_NK.shape[-1], dtype=rows_NK.dtype, device=rows_NK.device)
    normal_KK = own_NK.mT @ rows_NK + unobserved * gram_KK + ridge[..., None, None] * eye_KK
    factor_KK, wrong = torch.linalg.cholesky_ex(normal_KK)
    if wrong.any():
        raise FedlabError("a client's system cannot be solved: raise reg, or lower the server's rates (shared_lr)")
    return torch.cholesky_solve(own_NK.sum(dim=-2).unsqueeze(-1), factor_KK).squeeze(-1)
