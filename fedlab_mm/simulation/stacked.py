"""The fast engine: a chunk of clients at once, the gradients written by hand. Equal to `loop`; tests hold it to that.

Why it is fast. The score is linear in the item, s_ui = q_u·x_i + b_u, so one dense product scores a chunk of clients
against all items; the residuals of the sampled pairs go into a C × I matrix of zeros, and two more products give both
gradients. On two cores that beats gathering the sampled rows several times over, although most of the matrix is zero.

Residuals. Client c samples item i n_ci times, always with one label y_ci (a negative is never one of its positives), so
its mean loss over N_c samples has ∂L_c/∂s_ci = n_ci · slope(s_ci, y_ci) / N_c, which is zero where n_ci is.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fedlab_mm.backbones import LinearBackbone
from fedlab_mm.data.negatives import Samples
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset, Recipe
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import Engine, LocalWork


@register("engine", "stacked")
class Stacked(Engine):
    """Chunks of `recipe.chunk` clients; the chunk's size changes speed and memory, not the result."""

    def __init__(self, recipe: Recipe, data: Dataset):
        super().__init__(recipe, data)
        if not isinstance(self.method.client.backbone, LinearBackbone) or recipe.method not in KERNELS:
            raise FedlabError(f"engine 'stacked' cannot run {recipe.label} yet: use engine='loop'")

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, views_EID: Tensor) -> LocalWork:
        kernel = KERNELS[self.recipe.method](self, views_EID)
        n_clients, size = len(samples.clients), self.recipe.chunk
        all_here = n_clients == self.data.n_users
        private = {n: p.clone() if all_here else p[samples.clients] for n, p in self.private.items()}
        loss_C = torch.empty(n_clients, dtype=views_EID.dtype)
        n_rows_C = np.empty(n_clients, dtype=np.int64)
        alphas = torch.from_numpy(alpha_C).to(views_EID.dtype)
        for start in range(0, n_clients, size):
            stop = min(start + size, n_clients)
            pairs = Pairs(samples.part(start, stop), self.data.n_items, views_EID.dtype)
            chunk = {n: p[start:stop] for n, p in private.items()}
            loss_C[start:stop] = kernel.train(chunk, pairs, alphas[start:stop])
            n_rows_C[start:stop] = (pairs.count_CI > 0).sum(dim=1).numpy()
        return LocalWork(private, loss_C, n_rows_C, kernel.mixed_EID())

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """Each user's q_u and b_u, so that s_ui = q_u·x_i + b_u: [U, K] and [U, 1]."""
        theta_UD = self.private["backbone.predictor.weight"][:, 0]
        weights_UE = self.router_weights()
        q_UK = theta_UD if weights_UE is None else _outer(weights_UE, theta_UD)
        return q_UK, self.private["backbone.predictor.bias"]

    @torch.no_grad()
    def scores(self) -> Tensor:
        q_UK, bias_U1 = self._vectors()
        return torch.addmm(bias_U1, q_UK, _side_by_side(self.method.broadcast()).T)

    @torch.no_grad()
    def router_weights(self) -> Tensor | None:
        if self.method.client.router is None:
            return None
        views_IK = _side_by_side(self.method.broadcast())
        train = self.data.train
        shares = np.repeat(1 / train.lengths, train.lengths).astype(views_IK.numpy().dtype)
        own_UI = sparse.csr_matrix((shares, train.items, train.indptr), shape=(len(train), len(views_IK)))
        return _RouterPass(self.private, torch.from_numpy(own_UI @ views_IK.numpy())).weights_CE


class Pairs:
    """The samples of a chunk as C × I matrices: how often each item was drawn, and where it is a positive."""

    def __init__(self, samples: Samples, n_items: int, dtype: torch.dtype):
        n_clients = len(samples.clients)
        lengths = samples.lengths
        flat = torch.from_numpy(np.repeat(np.arange(n_clients) * n_items, lengths) + samples.items)
        count = torch.bincount(flat, minlength=n_clients * n_items)
        self.count_CI = count.view(n_clients, n_items).to(dtype)
        self.label_CI = torch.zeros_like(self.count_CI)
        self.label_CI.view(-1)[flat[torch.from_numpy(samples.labels > 0)]] = 1
        self.n_samples_C1 = torch.from_numpy(lengths).to(dtype)[:, None]
        self.n_positives_C1 = torch.from_numpy(samples.n_positives).to(dtype)[:, None]


class FedVLRKernel:
    """Algorithm 1 of FedVLR for a chunk. Views stand still within a round; K = E·D is their width side by side."""

    def __init__(self, engine: Engine, views_EID: Tensor):
        self.method, self.epochs = engine.method, engine.recipe.local_epochs
        self.shape = views_EID.shape
        self.views_IK = _side_by_side(views_EID)
        self.gradient_IK = torch.zeros_like(self.views_IK)

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> Tensor:
        """Move the chunk's private parameters in place, add to the views' gradient, return the mean losses [C]."""
        backbone, optimizer = self.method.client.backbone, self.method.local_optimizer()
        n_operators, _, dim = self.shape
        theta_CD, bias_C1 = private["backbone.predictor.weight"][:, 0], private["backbone.predictor.bias"]
        summary_CK = (pairs.label_CI @ self.views_IK) / pairs.n_positives_C1
        loss_C = torch.zeros_like(alpha_C)
        through_router_CK = torch.zeros_like(summary_CK)
        for _ in range(self.epochs):
            router = _RouterPass(private, summary_CK)
            q_CK = _outer(router.weights_CE, theta_CD)
            s_CI = torch.addmm(bias_C1, q_CK, self.views_IK.T)
            loss_C += (pairs.count_CI * backbone.loss(s_CI, pairs.label_CI)).sum(dim=1)
            residual_CI = backbone.slope(s_CI, pairs.label_CI).mul_(pairs.count_CI).div_(pairs.n_samples_C1)

            of_q_CED = (residual_CI @ self.views_IK).view(-1, n_operators, dim)
            of_theta_CD = torch.einsum("ce,ced->cd", router.weights_CE, of_q_CED)
            of_weights_CE = torch.einsum("ced,cd->ce", of_q_CED, theta_CD)
            gradients, of_summary_CK = router.backward(of_weights_CE)
            through_router_CK += of_summary_CK
            gradients["backbone.predictor.weight"] = of_theta_CD[:, None]
            gradients["backbone.predictor.bias"] = residual_CI.sum(dim=1, keepdim=True)
            self.gradient_IK.addmm_(residual_CI.mul_(alpha_C[:, None]).T, q_CK)
            optimizer.step(private, gradients)
        # The views reach the loss a second way, through the mean that the router reads.
        share_C1 = alpha_C[:, None] / pairs.n_positives_C1
        self.gradient_IK.addmm_(pairs.label_CI.T, through_router_CK * share_C1)
        return loss_C / (self.epochs * pairs.n_samples_C1[:, 0])

    def mixed_EID(self) -> Tensor:
        n_operators, n_items, dim = self.shape
        return self.gradient_IK.view(n_items, n_operators, dim).transpose(0, 1)


class NoFusionKernel:
    """Local training on touched rows only, flat: entry p is item i_p of client c_p, with a row of its own."""

    def __init__(self, engine: Engine, views_EID: Tensor):
        self.method, self.epochs = engine.method, engine.recipe.local_epochs
        self.table_ID = views_EID[0]
        self.change_ID = torch.zeros_like(self.table_ID)

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> Tensor:
        """Move the chunk's private parameters in place, add to the table's change, return the mean losses [C]."""
        backbone, optimizer = self.method.client.backbone, self.method.local_optimizer()
        theta_CD, bias_C1 = private["backbone.predictor.weight"][:, 0], private["backbone.predictor.bias"]
        c_P, i_P = pairs.count_CI.nonzero(as_tuple=True)
        count_P, label_P = pairs.count_CI[c_P, i_P], pairs.label_CI[c_P, i_P]
        share_P = count_P / pairs.n_samples_C1[c_P, 0]
        rows_PD = self.table_ID[i_P]
        loss_C = torch.zeros_like(alpha_C)
        for _ in range(self.epochs):
            theta_PD = theta_CD[c_P]
            s_P = (rows_PD * theta_PD).sum(dim=1) + bias_C1[c_P, 0]
            loss_C.index_add_(0, c_P, share_P * backbone.loss(s_P, label_P))
            residual_P = share_P * backbone.slope(s_P, label_P)
            of_theta_CD = torch.zeros_like(theta_CD).index_add_(0, c_P, residual_P[:, None] * rows_PD)
            of_bias_C = torch.zeros_like(alpha_C).index_add_(0, c_P, residual_P)
            optimizer.step(
                {**private, "item_table": rows_PD},
                {
                    "backbone.predictor.weight": of_theta_CD[:, None],
                    "backbone.predictor.bias": of_bias_C[:, None],
                    "item_table": residual_P[:, None] * theta_PD,
                },
            )
        self.change_ID.index_add_(0, i_P, alpha_C[c_P, None] * (rows_PD - self.table_ID[i_P]))
        return loss_C / self.epochs

    def mixed_EID(self) -> Tensor:
        return self.change_ID[None]


KERNELS: dict[str, Callable[[Engine, Tensor], FedVLRKernel | NoFusionKernel]] = {
    "fedvlr": FedVLRKernel,
    "none": NoFusionKernel,
}


class _RouterPass:
    """Forward and backward of a chunk's routers, each with weights of its own: w = softmax(W₂ relu(W₁x + b₁) + b₂)."""

    def __init__(self, private: dict[str, Tensor], summary_CK: Tensor):
        self.private, self.summary_CK = private, summary_CK
        self.hidden_CH = torch.relu(_apply(private["router.hidden.weight"], summary_CK) + private["router.hidden.bias"])
        logits_CE = _apply(private["router.output.weight"], self.hidden_CH) + private["router.output.bias"]
        self.weights_CE = torch.softmax(logits_CE, dim=1)

    def backward(self, of_weights_CE: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """From ∂L/∂w: the gradients of the routers' parameters, and of what they read [C, K]."""
        centred = of_weights_CE - (self.weights_CE * of_weights_CE).sum(dim=1, keepdim=True)
        of_logits_CE = self.weights_CE * centred
        of_hidden_CH = _apply_transposed(self.private["router.output.weight"], of_logits_CE) * (self.hidden_CH > 0)
        of_summary_CK = _apply_transposed(self.private["router.hidden.weight"], of_hidden_CH)
        gradients = {
            "router.hidden.weight": of_hidden_CH[:, :, None] * self.summary_CK[:, None, :],
            "router.hidden.bias": of_hidden_CH,
            "router.output.weight": of_logits_CE[:, :, None] * self.hidden_CH[:, None, :],
            "router.output.bias": of_logits_CE,
        }
        return gradients, of_summary_CK


def _apply(matrix_Cxy: Tensor, vector_Cy: Tensor) -> Tensor:
    return torch.bmm(matrix_Cxy, vector_Cy[:, :, None])[:, :, 0]


def _apply_transposed(matrix_Cxy: Tensor, vector_Cx: Tensor) -> Tensor:
    return torch.bmm(vector_Cx[:, None, :], matrix_Cxy)[:, 0]


def _outer(weights_CE: Tensor, theta_CD: Tensor) -> Tensor:
    """w_ce · θ_cd, side by side: [C, K]."""
    return (weights_CE[:, :, None] * theta_CD[:, None, :]).flatten(1)


def _side_by_side(views_EID: Tensor) -> Tensor:
    """[I, K], an item's views one after the other."""
    return views_EID.transpose(0, 1).flatten(1).contiguous()
