"""A loss over the whole catalogue, and the client that solves it: what FCF's clients do (Ammad-ud-din et al. 2019).

With positives S_u, weight α₀ of every item and regularisation λ, client u minimises (Rendle et al. 2022, ν = 1)

    L_u = Σ_{i ∈ S_u} (1 − s_ui)² + α₀ Σ_i s_ui² + λ (n_u + α₀ I) ‖θ_u‖² + λ (Σ_{i ∈ S_u} ‖x_i‖² + α₀ Σ_i ‖x_i‖²),

whose mean over clients is iALS's objective. A score is linear in the item, s_ui = q_u·x_i, with q_u = θ_u, or w_u ⊗ θ_u
where a router mixes views. So all that the sums over all items depend on is the Gram matrix G = Σ_i x_i x_iᵀ:

    Σ_i s_ui² = q_uᵀ G q_u,        Σ_i ‖x_i‖² = tr G.

The server sends G with the items. A client uploads its gradient with respect to the rows of its own items and with
respect to G, which is α₀ q_u q_uᵀ + λ α₀ 1: a matrix of K × K numbers, never a dense table. The server pulls both back
through what it sent; through G = XᵀX the second becomes 2 X ∂L/∂G.

More steps from the same sums (`server_steps`). With the clients' θ fixed L is quadratic in the items. Its part over the
whole catalogue the server knows exactly, for ∂L/∂G does not depend on X. Of a client's own rows it knows the gradient
g_i at the X⁰ that was sent; what it lacks is the curvature 2 Σ_{u∋i} α_u (q_u q_uᵀ + λ 1), K² numbers a row. It takes
the mean client's for each client that holds the item,

    ∂L/∂x_i ≈ g_i + 2 n_i ∂L/∂G/α₀ (x_i − x_i⁰),        n_i = Σ_{u∋i} α_u,

so all that clients tell beside is that they hold a row: the part "met", whose gradient is 1 there.

| symbol | here |
|---|---|
| α₀, λ | the recipe's `unobserved`, `reg` |
| x_i | a row of "item_table", or of "views" with its E views side by side, [K] |
| G | the part "gram" |
| n_i | what comes back of the part "met" |
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from fedlab_mm.backbones import Backbone, LinearBackbone
from fedlab_mm.errors import FedlabError
from fedlab_mm.losses import Loss
from fedlab_mm.methods.optimizers import LocalOptimizer
from fedlab_mm.methods.parts import Batch, Parameters, Part
from fedlab_mm.recipe import Recipe

GRAM, MET = "gram", "met"


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
    told = "solver='closed'" if recipe.solver == "closed" else f"loss='{recipe.loss}'"
    if not isinstance(backbone, LinearBackbone) or type(backbone).forward is not LinearBackbone.forward:
        raise FedlabError(f"{told} needs a score that is linear in the item, and that of '{recipe.backbone}' is not")
    if backbone.personal_table or backbone.keeps_items:
        raise FedlabError(f"{told} needs items that are the same to all clients, and '{recipe.backbone}' keeps its own")
    if not fits:
        raise FedlabError(
            f"{told} needs items that stand still while a client trains: method '{recipe.method}' trains them there, "
            "or has a loss that is no square; choose none, prior, mlp, vbpr or fedvlr"
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


class OverAllItems:
    """What a `Method` does under a loss over the whole catalogue."""

    recipe: Recipe
    loss: Loss
    n_items: int
    parts: dict[str, Part]
    routes: ClassVar[bool]
    weights: Callable[[Tensor, Parameters, Tensor], Tensor]
    views: Callable[[Parameters], Tensor]
    gradients: Callable[[Parameters, list[str], Batch, int, bool], tuple[Tensor, dict[str, Tensor]]]
    local_optimizer: Callable[[Parameters, int], LocalOptimizer]

    def over_all_items(self, logits_N: Tensor, local: Parameters, batch: Batch) -> Tensor:
        """L_u over the whole catalogue (`methods.whole`)."""
        r, label_N, gram_KK = self.recipe, batch.label_N, local[GRAM]
        theta_D, rows_NK = local["backbone.predictor.weight"][0], self._rows(local)
        q_K = theta_D
        if self.routes:
            weights_E = self.weights(self.views(local), local, batch.own_N)
            q_K = (weights_E[:, None] * theta_D).flatten()
        seen = label_N.sum() + r.unobserved * self.n_items
        sizes = (label_N * rows_NK.square().sum(dim=1)).sum() + r.unobserved * gram_KK.diagonal().sum()
        of_items = self.loss.of(logits_N, label_N).sum() + r.unobserved * (q_K @ gram_KK @ q_K)
        told = (label_N * local[MET]).sum() if MET in local else 0.0  # zero; its gradient says what is held
        return of_items + r.reg * (seen * theta_D.square().sum() + sizes) + told

    def _rows(self, local: Parameters) -> Tensor:
        """The item rows that `local` holds, as they were sent: [N, K]; leading axes are carried along."""
        return local["views"].flatten(-2) if "views" in local else local["item_table"]

    def with_gram(self, sent: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is sent, and under a loss over all items its Gram matrix."""
        if not self.loss.whole:
            return sent
        rows_IK = self._rows(sent)
        met = {MET: rows_IK.new_zeros(len(rows_IK))} if MET in self.parts else {}
        return {**sent, GRAM: gram_of(rows_IK), **met}

    @torch.no_grad()
    def gradient_further_on(self, now: Parameters, sent_IK: Tensor, mixed: Parameters) -> dict[str, Tensor]:
        """What would come back if the same clients were sent what the server makes `now`, as far as it can tell.

        Args:
            sent_IK: the rows that they were sent; mixed: what came back.
        """
        moved_IK = self._rows(now) - sent_IK
        curved_KK = (mixed[GRAM] + mixed[GRAM].T) / self.recipe.unobserved  # twice; noise may have bent it
        size_K, axis_KK = torch.linalg.eigh(curved_KK)
        met_I = mixed[MET].clamp(min=0)
        bent_IK = met_I[:, None] * ((moved_IK @ axis_KK) * size_K.clamp(min=0)) @ axis_KK.T
        part = "views" if "views" in now else "item_table"
        return {**mixed, part: mixed[part] + bent_IK.view_as(mixed[part])}

    @torch.no_grad()
    def solve(self, local: Parameters, batch: Batch, stacked: bool) -> Tensor:
        """θ_u, exactly, for the items as the client's router mixes them: [D]; for each client of a stack."""
        r, rows_NK, gram_KK = self.recipe, self._rows(local), local[GRAM]
        if self.routes:

            def weights(local: Parameters, own_N: Tensor) -> Tensor:
                return self.weights(self.views(local), local, own_N)

            weights_E = (torch.func.vmap(weights) if stacked else weights)(dict(local), batch.own_N)
            views_NED = rows_NK.unflatten(-1, (weights_E.shape[-1], -1))
            rows_NK = (weights_E[..., None, :, None] * views_NED).sum(dim=-2)
            n_views, gram = weights_E.shape[-1], gram_KK.unflatten(-1, (weights_E.shape[-1], -1))
            gram_EDED = gram.unflatten(-3, (n_views, -1))
            gram_KK = torch.einsum("...e,...edfg,...f->...dg", weights_E, gram_EDED, weights_E)
        ridge = r.reg * (batch.label_N.sum(dim=-1) + r.unobserved * self.n_items)
        return solved(rows_NK, batch.label_N, gram_KK, r.unobserved, ridge)

    def solved_update(
        self,
        private: dict[str, Tensor],
        local: Parameters,
        sums: dict[str, Tensor],
        batch: Batch,
        round: int,
        stacked: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The update of a client that solves for θ: in turns with steps of its router, where it has one; then the
        gradients of what it was sent, at what it has become."""
        theta = private["backbone.predictor.weight"]
        router = {n: p for n, p in private.items() if n.startswith("router.")}
        optimizer = self.local_optimizer(router, round)
        losses = []
        for _ in range(self.recipe.local_epochs if router else 1):
            theta[..., 0, :] = self.solve(local, batch, stacked)
            if router:
                loss, gradients = self.gradients(local, list(router), batch, round, stacked)
                optimizer.step(gradients)
                losses.append(loss)
        theta[..., 0, :] = self.solve(local, batch, stacked)
        loss, gradients = self.gradients(local, list(sums), batch, round, stacked)
        return (torch.stack(losses).mean(dim=0) if losses else loss), {f"∇{n}": gradients[n] for n in sums}
