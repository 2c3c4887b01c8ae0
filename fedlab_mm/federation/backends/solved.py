"""The kernel of clients that solve for their predictor: gradients by hand.

With q = θ, or w ⊗ θ under a router with weights w, s_n = q·x_n and y_n = 1 at its own items, client u's gradients (see
`methods.whole`) are

    ∂L/∂x_n = 2 y_n ((s_n − 1) q + λ x_n),                ∂L/∂G = α₀ (q qᵀ + λ 1),
    ∂L/∂q = 2 (Σ_n y_n (s_n − 1) x_n + α₀ G q),

and a router's weights see ∂L/∂w_e = θ·(∂L/∂q)_e, from which they and what the router reads have theirs. Over clients
the second is one product, Σ_u α_u q_u q_uᵀ = Qᵀ diag(α) Q, so no client's matrix is made unless somebody looks at it.
"""

from typing import Any

import torch
from torch import Tensor

from fedlab_mm.federation.backends.chunks import Chunk, tensors_of
from fedlab_mm.federation.backends.kernels import Kernel
from fedlab_mm.federation.backends.linear import HIDDEN, WEIGHT, RankOneLayer, Routers, outer, scores_linearly
from fedlab_mm.methods import Method
from fedlab_mm.methods.whole import GRAM, MET, solved
from fedlab_mm.routing import times


class Solved(Kernel):
    """Closed clients."""

    @staticmethod
    def fits(method: Method) -> bool:
        return method.recipe.solver == "closed" and scores_linearly(method)

    def bytes_of_client(self, n_rows: Any) -> Any:
        width, dim = self.sent[GRAM].shape[0], self.recipe.dim
        own = 0 if self.intake.channel.transparent else width * width
        private = sum(p[0].numel() for p in self.federation.private.values())
        return self.recipe.dtype.itemsize * (3 * n_rows * width + 3 * dim * dim + own + private)

    def train(self, chunk: Chunk) -> tuple[Tensor, None]:
        clients = _SolvedClients(self, chunk)
        losses = []
        if clients.routers is not None:
            for epoch in range(self.recipe.local_epochs):
                losses.append(clients.step_of_routers(epoch))
        loss_C = clients.solve()
        clients.hand_in()
        return torch.stack(losses or [loss_C]).mean(dim=0), None


class _SolvedClients:
    """A chunk of clients under `Solved`, each at its θ for the weights that its router has."""

    def __init__(self, kernel: Solved, chunk: Chunk):
        self.kernel, self.chunk, self.recipe = kernel, chunk, kernel.recipe
        self.gram_KK, self.label_CN = kernel.sent[GRAM], chunk.batch.label_N
        self.part = "views" if "views" in kernel.sent else "item_table"
        self.x_CNK = chunk.gather(kernel.sent[self.part].flatten(1))
        self.private = tensors_of(chunk.private)
        self.seen_C = self.label_CN.sum(dim=1) + self.recipe.unobserved * kernel.method.n_items
        own = (self.label_CN * self.x_CNK.square().sum(dim=2)).sum(dim=1)
        self.sizes_C = own + self.recipe.unobserved * self.gram_KK.diagonal().sum()
        self.routers: Routers | None = None
        if kernel.method.routes:
            self.routers = Routers(kernel, chunk, self.private, self.x_CNK)
            router = {n for n in self.private if n.startswith("router.")} - self.routers.by_hand
            self.optimizer = kernel.method.local_optimizer({n: self.private[n] for n in router}, kernel.round)

    def solve(self) -> Tensor:
        """θ of each client, and where it leads; the losses [C]."""
        r, x_CND, gram = self.recipe, self.x_CNK, self.gram_KK
        if self.routers is not None:
            weights_CE = self.routers.weights()
            n_views = weights_CE.shape[1]
            x_CND = times(weights_CE[:, None], self.x_CNK.unflatten(2, (n_views, -1)))
            pairs = outer(weights_CE, weights_CE)
            blocks = gram.unflatten(1, (n_views, -1)).unflatten(0, (n_views, -1)).transpose(1, 2).flatten(2)
            gram = (pairs @ blocks.flatten(0, 1)).view(len(pairs), *2 * [x_CND.shape[2]])
        theta_CD = solved(x_CND, self.label_CN, gram, r.unobserved, r.reg * self.seen_C)
        self.private[WEIGHT][:, 0] = theta_CD
        self.theta_CD = theta_CD
        self.q_CK = theta_CD if self.routers is None else outer(weights_CE, theta_CD)
        score_CN = times(theta_CD, x_CND.mT)
        self.through_gram_CK = self.q_CK @ self.gram_KK
        self.slope_CN = 2 * self.label_CN * (score_CN - 1)
        fit_C = (self.label_CN * (1 - score_CN).square()).sum(dim=1)
        all_C = (self.through_gram_CK * self.q_CK).sum(dim=1)
        sizes_C = self.seen_C * theta_CD.square().sum(dim=1) + self.sizes_C
        return fit_C + r.unobserved * all_C + r.reg * sizes_C

    def backward(self, routers: Routers) -> dict[str, Tensor]:
        """The gradients of the routers' parameters, but for those moved by hand."""
        grad_q_CK = times(self.slope_CN, self.x_CNK) + 2 * self.recipe.unobserved * self.through_gram_CK
        views_CED = grad_q_CK.unflatten(1, (-1, self.theta_CD.shape[1]))
        return routers.backward(times(self.theta_CD, views_CED.mT))

    def step_of_routers(self, epoch: int) -> Tensor:
        """A step of each router, at the θ that goes with it; the losses before it, [C]."""
        assert self.routers is not None
        loss_C = self.solve()
        self.optimizer.step(self.backward(self.routers))
        self.routers.step(epoch)
        return loss_C

    def hand_in(self) -> None:
        """What the clients upload: the gradients of their items' rows and of G, at what they have become."""
        kernel, chunk, r = self.kernel, self.chunk, self.recipe
        grad_x_CNK = self.slope_CN[:, :, None] * self.q_CK[:, None]
        grad_x_CNK += (2 * r.reg) * self.label_CN[:, :, None] * self.x_CNK
        if self.routers is not None:  # views reach the loss a second way, through the mean that the router reads
            self.backward(self.routers)
            self.routers.read()
            grad_x_CNK += chunk.batch.own_N[:, :, None] * self.routers.grad_input()[:, None]
            if isinstance(self.routers.layer, RankOneLayer):
                chunk.private[HIDDEN] = self.routers.layer.change()
        grad_x = grad_x_CNK.view(*grad_x_CNK.shape[:2], *kernel.sent[self.part].shape[1:])
        eye_KK = torch.eye(len(self.gram_KK), dtype=self.gram_KK.dtype, device=self.gram_KK.device)
        if kernel.intake.channel.transparent:
            kernel.intake.add_rows(self.part, chunk.rows_CN, chunk.weighted(grad_x))
            if MET in kernel.intake.mixed:
                kernel.intake.add_rows(MET, chunk.rows_CN, chunk.weighted(self.label_CN))
            summed_KK = self.q_CK.T @ (chunk.alpha_C[:, None] * self.q_CK)
            kernel.intake.mixed[GRAM] += r.unobserved * (summed_KK + r.reg * chunk.alpha_C.sum() * eye_KK)
        else:
            own_CKK = self.q_CK[:, :, None] * self.q_CK[:, None] + r.reg * eye_KK
            met = {MET: self.label_CN} if MET in kernel.method.parts else {}
            kernel.hand_in(chunk, {self.part: grad_x, GRAM: r.unobserved * own_CKK, **met})
