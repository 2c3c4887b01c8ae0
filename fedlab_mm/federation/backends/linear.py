"""The kernel with gradients by hand, where a score is linear in the item and fusion is on the server, or nowhere:

    s_n = q·x_n + θ·p_n + b        x_n: the item's views side by side [E·D], or the client's copy of its table row [D]
                                   q = w ⊗ θ, the router's weights times the predictor; θ alone without a router
                                   p_n: the client's personal row, if it has any

Views stand still within a round. So an epoch's gradient with respect to them is the outer product of the residuals and
q, and the sum over epochs is one matrix product at the end; and a router reads the same input in every epoch, so that
under SGD its first layer moves by a matrix of rank one (`RankOneLayer`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedlab_mm.backbones import Backbone, LinearBackbone
from fedlab_mm.federation.backends.chunks import Chunk, tensors_of
from fedlab_mm.federation.backends.kernels import Kernel
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.ranking import RankingFederation
from fedlab_mm.federation.state import RankOne
from fedlab_mm.methods import Method
from fedlab_mm.methods.fedmr import FedMR
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.parts import PERSONAL, Parameters
from fedlab_mm.methods.serverside import ServerSide
from fedlab_mm.routing import Router, choose, times

OF_A_CLIENT = ("client_update", "gradients", "local_optimizer", "local_rate", "phases")  # what a kernel does itself
WEIGHT, BIAS, HIDDEN = "backbone.predictor.weight", "backbone.predictor.bias", "router.hidden.weight"


class LinearScores(Kernel):
    """A score linear in the item, fusion on the server or nowhere: gradients by hand."""

    def __init__(self, federation: RankingFederation, sent: Parameters, intake: Intake):
        super().__init__(federation, sent, intake)
        self.part = "views" if "views" in sent else "item_table"
        self.table_IK = sent[self.part].flatten(1)

    @staticmethod
    def fits(method: Method) -> bool:
        backbone = method.client.backbone
        return (
            scores_linearly(method)
            and not method.loss.whole
            and isinstance(method, (ServerSide, NoFusion))
            and not (backbone.keeps_items and backbone.personal_table)
        )

    def bytes_of_client(self, n_rows: Any) -> Any:
        width = self.table_IK.shape[1]
        if self.federation.personal is not None:
            width += 6 * self.federation.personal.initial_IW.shape[1]
        by_hand = {HIDDEN} if self.method.steps_are_plain else set()
        private = sum(p[0].numel() for n, p in self.federation.private.items() if n not in by_hand)
        return self.recipe.dtype.itemsize * (2 * n_rows * width + 3 * private)

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        clients = _LinearClients(self, chunk)
        together = len(self.method.phases()) == 1
        loss_C = torch.zeros_like(chunk.alpha_C)
        for epoch in range(self.recipe.local_epochs):
            loss_C += clients.step(epoch, private=True, shared=together)
            if not together:
                clients.step(epoch, private=False, shared=True)
        clients.hand_in()
        return loss_C / self.recipe.local_epochs, None if self.federation.kept_UI is None else clients.scores()


class _LinearClients:
    """A chunk of clients under `LinearScores`, through its local epochs."""

    def __init__(self, kernel: LinearScores, chunk: Chunk):
        self.kernel, self.chunk, self.batch = kernel, chunk, chunk.batch
        self.method, self.loss = kernel.method, kernel.method.loss
        private = tensors_of(chunk.private)
        self.theta_CD, self.bias_C1 = private[WEIGHT][:, 0], private[BIAS]
        self.x_CNK, self.personal_CND = chunk.gather(kernel.table_IK), chunk.personal_CNW
        self.routers = Routers(kernel, chunk, private, self.x_CNK) if self.method.routes else None
        moved = {n: p for n, p in private.items() if self.routers is None or n not in self.routers.by_hand}
        if self.personal_CND is not None:
            moved[PERSONAL] = self.personal_CND
        if kernel.part == "item_table":
            moved["item_table"] = self.x_CNK
        self.optimizer = self.method.local_optimizer(moved, kernel.round)
        self.second = self.method.second_loss
        self.guided: Mapping[str, Tensor] = {}
        if self.second is not None:
            standing = {n: kernel.given(n, chunk) for n in kernel.sent if n != kernel.part}
            self.guided = self.method.guide(self.logits(self.q()[1]), {**private, **standing}, self.batch, kernel.round)
        self.through_views: list[tuple[Tensor, Tensor]] = []  # (residual_CN, q_CK) of each epoch
        self.grad_common_CNK: Tensor | None = None  # the penalty's gradient with respect to the views, summed

    def q(self) -> tuple[Tensor | None, Tensor]:
        if self.routers is None:
            return None, self.theta_CD
        weights_CE = self.routers.weights()
        return weights_CE, outer(weights_CE, self.theta_CD)

    def logits(self, q_CK: Tensor) -> Tensor:
        s_CN = times(q_CK, self.x_CNK.mT) + self.bias_C1
        if self.personal_CND is not None:
            s_CN += times(self.theta_CD, self.personal_CND.mT)
        return s_CN

    def step(self, epoch: int, private: bool, shared: bool) -> Tensor:
        """Gradients at the clients' current values, and a step of what is private, shared, or both."""
        weights_CE, q_CK = self.q()
        s_CN = self.logits(q_CK)
        share_CN, label_CN = self.batch.share_N, self.batch.label_N
        loss_C = (share_CN * self.loss.of(s_CN, label_CN)).sum(dim=1)
        slope_CN = self.loss.slope(s_CN, label_CN)
        if self.second is not None:
            weight_C, target_CN = self.guided["guidance"], self.guided["target"]
            loss_C += weight_C * (share_CN * self.second.of(s_CN, target_CN)).sum(dim=1)
            slope_CN = slope_CN + weight_C[:, None] * self.second.slope(s_CN, target_CN)
        residual_CN = slope_CN * share_CN
        grad_items_CND, grad_common_CND = residual_CN[:0, :, None], None
        if self.rows_move:
            grad_items_CND = residual_CN[:, :, None] * self.theta_CD[:, None]
        if self.personal_CND is not None:
            penalty_C, grad_common_CND, grad_personal_CND = self._penalty(weights_CE, self.personal_CND)
            loss_C += penalty_C
            grad_personal_CND = grad_personal_CND + grad_items_CND

        gradients: dict[str, Tensor] = {}
        grad_q_CK = times(residual_CN, self.x_CNK)
        if private:
            grad_theta_CD = grad_q_CK
            if weights_CE is not None:
                grad_theta_CD = (grad_q_CK.view(*weights_CE.shape, -1) * weights_CE[:, :, None]).sum(dim=1)
            if self.personal_CND is not None:
                grad_theta_CD = grad_theta_CD + times(residual_CN, self.personal_CND)
                gradients[PERSONAL] = grad_personal_CND
            gradients[WEIGHT] = grad_theta_CD[:, None]
            gradients[BIAS] = residual_CN.sum(dim=1, keepdim=True)
        if self.routers is not None and weights_CE is not None:
            grad_weights_CE = (grad_q_CK.view(*weights_CE.shape, -1) * self.theta_CD[:, None]).sum(dim=2)
            if grad_common_CND is not None:
                grad_weights_CE += (self._views() * grad_common_CND[:, :, None]).sum(dim=(1, 3))
            grad_router = self.routers.backward(grad_weights_CE)
            if private:
                gradients |= grad_router
            if shared:
                self.routers.read()
        if shared and self.kernel.part == "item_table":
            gradients["item_table"] = grad_items_CND if grad_common_CND is None else grad_items_CND + grad_common_CND
        elif shared:
            self.through_views.append((residual_CN, q_CK if self.routers is not None else q_CK.clone()))  # θ moves
            if grad_common_CND is not None:
                spread = grad_common_CND if weights_CE is None else outer(weights_CE, grad_common_CND)
                self.grad_common_CNK = spread if self.grad_common_CNK is None else self.grad_common_CNK + spread
        self.optimizer.step(gradients)
        if private and self.routers is not None:
            self.routers.step(epoch)
        return loss_C

    def hand_in(self) -> None:
        """What the clients upload of their items."""
        kernel, chunk, part = self.kernel, self.chunk, self.kernel.part
        if part == "item_table":
            kernel.hand_in(chunk, {part: self.x_CNK - chunk.gather(kernel.table_IK)})
            return
        if self.routers is not None:  # views reach the loss a second way, through the mean that the router reads
            self.through_views.append((self.batch.own_N, self.routers.grad_input()))
            if isinstance(self.routers.layer, RankOneLayer):
                chunk.private[HIDDEN] = self.routers.layer.change()
        summed = kernel.intake.channel.transparent  # then nobody needs a client's own gradient, and it is weighted here
        alpha_C11 = chunk.alpha_C[:, None, None] if summed else torch.ones_like(chunk.alpha_C)[:, None, None]
        residual_CNT = torch.stack([r for r, _ in self.through_views], dim=2) * alpha_C11  # zero in padding
        grad_views_CNK = torch.bmm(residual_CNT, torch.stack([q for _, q in self.through_views], dim=1))
        if self.grad_common_CNK is not None:
            grad_views_CNK.addcmul_(self.grad_common_CNK, alpha_C11 * chunk.there_CN[:, :, None])
        of_views = grad_views_CNK.view(*grad_views_CNK.shape[:2], *kernel.sent[part].shape[1:])
        if summed:
            kernel.intake.add_rows(part, chunk.rows_CN, of_views)
        else:
            kernel.hand_in(chunk, {part: of_views})

    def scores(self) -> Tensor:
        """Every item's score by what each client keeps, [C, I]."""
        scores_CI = torch.addmm(self.bias_C1, self.q()[1], self.kernel.table_IK.T)
        if self.kernel.part == "item_table":
            own_CN = times(self.theta_CD, self.x_CNK.mT) + self.bias_C1
            c_P, n_P = self.chunk.there_CN.nonzero(as_tuple=True)
            scores_CI[c_P, self.chunk.rows_CN[c_P, n_P]] = own_CN[c_P, n_P]
        return scores_CI

    @property
    def rows_move(self) -> bool:
        """Do clients move rows of their own, a table's or personal ones?"""
        return self.kernel.part == "item_table" or self.personal_CND is not None

    def _views(self) -> Tensor:
        return self.x_CNK.unflatten(2, (-1, self.theta_CD.shape[1]))

    def _penalty(self, weights_CE: Tensor | None, personal_CND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The backbone's penalty, [C], and its gradients with respect to the common and the personal rows."""
        common_CND = self.x_CNK
        if weights_CE is not None:
            views_CNED = self._views()
            common_CND = views_CNED[:, :, 0] * weights_CE[:, None, :1]
            for e in range(1, weights_CE.shape[1]):
                common_CND.addcmul_(views_CNED[:, :, e], weights_CE[:, None, e : e + 1])
        leaves = [common_CND.detach().requires_grad_(), personal_CND.detach().requires_grad_()]
        with torch.enable_grad():
            backbone = self.method.client.backbone
            penalty_C = backbone.penalty(
                leaves[0], leaves[1], self.batch.share_N, self.kernel.recipe, self.kernel.round
            )
            penalty_C = penalty_C + 0 * sum(leaf.sum() for leaf in leaves)  # it may be constant
            grad_common, grad_personal = torch.autograd.grad(
                penalty_C.sum(), leaves, materialize_grads=True, allow_unused=True
            )
        return penalty_C.detach(), grad_common, grad_personal


class Routers:
    """A chunk's routers, each with weights of its own: w = softmax(W₂ relu(W₁x + b₁) + b₂), x standing still."""

    def __init__(self, kernel: Kernel, chunk: Chunk, private: Mapping[str, Tensor], x_CNK: Tensor):
        self.kernel, self.private = kernel, private
        kind = RankOneLayer if kernel.method.steps_are_plain and HIDDEN not in kernel.method.shown else PlainLayer
        self.layer = kind(private[HIDDEN], times(chunk.batch.own_N, x_CNK))
        self.by_hand = {HIDDEN} if kind is RankOneLayer else set()

    def weights(self) -> Tensor:
        """w_u [C, E]."""
        bias_CH, weight_CEH, bias_CE = (
            self.private[f"router.{n}"] for n in ("hidden.bias", "output.weight", "output.bias")
        )
        self.weights_CE, self.hidden_CH = choose(self.layer.product(), bias_CH, weight_CEH, bias_CE)
        return self.weights_CE

    def backward(self, grad_weights_CE: Tensor) -> dict[str, Tensor]:
        """From ∂L/∂w: the gradients of the routers' parameters, but for those moved by hand."""
        centred = grad_weights_CE - (self.weights_CE * grad_weights_CE).sum(dim=1, keepdim=True)
        grad_logits_CE = self.weights_CE * centred
        self.grad_hidden_CH = times(grad_logits_CE, self.private["router.output.weight"]) * (self.hidden_CH > 0)
        return {
            "router.hidden.bias": self.grad_hidden_CH,
            "router.output.weight": grad_logits_CE[:, :, None] * self.hidden_CH[:, None, :],
            "router.output.bias": grad_logits_CE,
            **({} if self.by_hand else {HIDDEN: self.layer.gradient(self.grad_hidden_CH)}),
        }

    def read(self) -> None:
        """Count in the last gradient for what the routers read."""
        self.layer.read(self.grad_hidden_CH)

    def step(self, epoch: int) -> None:
        if isinstance(self.layer, RankOneLayer):
            lr = self.kernel.method.local_rate(HIDDEN, self.kernel.round, epoch)
            self.layer.step(self.grad_hidden_CH, lr, self.kernel.recipe.weight_decay)

    def grad_input(self) -> Tensor:
        """The gradient with respect to what the routers read, summed over the epochs: [C, K]."""
        return self.layer.grad_input()


class PlainLayer:
    """W x with a W for each client, which an optimiser moves."""

    def __init__(self, weight_CHK: Tensor, read_CK: Tensor):
        self.weight_CHK, self.read_CK = weight_CHK, read_CK
        self.sum_CK = torch.zeros_like(read_CK)

    def product(self) -> Tensor:
        return times(self.read_CK, self.weight_CHK.mT)

    def gradient(self, grad_product_CH: Tensor) -> Tensor:
        return grad_product_CH[:, :, None] * self.read_CK[:, None]

    def read(self, grad_product_CH: Tensor) -> None:
        self.sum_CK += times(grad_product_CH, self.weight_CHK)

    def grad_input(self) -> Tensor:
        return self.sum_CK


class RankOneLayer(PlainLayer):
    """The same under SGD, without moving W: with δ_a = ∂L/∂(W_a x) and decay λ,

        W_{a+1} = (1 − η_a λ) W_a − η_a δ_a xᵀ, so that W_a = s_a W_0 − m_a xᵀ,
        W_{a+1} x = (1 − η_a λ) W_a x − η_a δ_a (xᵀx),        Σ_a W_aᵀδ_a = W_0ᵀ Σ_a s_a δ_a − x Σ_a m_a·δ_a.

    W_0 is read twice in a round, and the change is written once, by `RankOne`.
    """

    def __init__(self, weight_CHK: Tensor, read_CK: Tensor):
        super().__init__(weight_CHK, read_CK)
        self.product_CH = super().product()
        self.moved_CH, self.direct_CH = torch.zeros_like(self.product_CH), torch.zeros_like(self.product_CH)
        self.along_C1 = torch.zeros_like(read_CK[:, :1])
        self.square_C1 = read_CK.square().sum(dim=1, keepdim=True)
        self.scale = 1.0

    def product(self) -> Tensor:
        return self.product_CH

    def read(self, grad_product_CH: Tensor) -> None:
        self.direct_CH.add_(grad_product_CH, alpha=self.scale)
        self.along_C1 += (self.moved_CH * grad_product_CH).sum(dim=1, keepdim=True)

    def step(self, grad_product_CH: Tensor, lr: float, weight_decay: float) -> None:
        shrink = 1 - lr * weight_decay
        self.product_CH = shrink * self.product_CH - lr * self.square_C1 * grad_product_CH
        self.moved_CH = shrink * self.moved_CH + lr * grad_product_CH
        self.scale *= shrink

    def grad_input(self) -> Tensor:
        return times(self.direct_CH, self.weight_CHK) - self.along_C1 * self.read_CK

    def change(self) -> RankOne:
        return RankOne(self.scale, self.moved_CH, self.read_CK)


def scores_linearly(method: Method) -> bool:
    """Is a score θ·x + b, with θ and b private and x the fused vector or table row, by nobody's overridden code?"""
    backbone, router = method.client.backbone, method.client.router
    return (
        isinstance(backbone, LinearBackbone)
        and type(backbone).forward is LinearBackbone.forward
        and type(backbone).lift is Backbone.lift
        and backbone.private == LinearBackbone.private == {n for n, _ in backbone.named_parameters()}
        and not backbone.own_table
        and (router is None or type(router) is Router)
        and all(
            getattr(type(method), n) is getattr(Method, n)
            for n in ("weights", "fuse", "score", "objective", "logits", *OF_A_CLIENT)
        )
        and type(method).represent in (Method.represent, NoFusion.represent, FedMR.represent)
    )


def outer(weights_CE: Tensor, vectors: Tensor) -> Tensor:
    """w_ce · v_c…d, side by side: [C, …, D] in, [C, …, E·D] out."""
    weights = weights_CE.view(len(weights_CE), *[1] * (vectors.ndim - 2), -1, 1)
    return (weights * vectors.unsqueeze(-2)).flatten(-2)
