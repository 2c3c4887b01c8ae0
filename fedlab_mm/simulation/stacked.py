"""The fast engine: a chunk of clients at once. Equal to `loop`; tests hold it to that.

`Vmapped` trains any method around any backbone: the client code that `loop` runs, vectorised over clients padded to
a common length. Where the server fuses, or nobody does, and the score is linear in the item, `LinearViews` and
`LinearTable` do the same faster, with gradients by hand.

Why they are fast. With s_ui = q_u·x_i + b_u, one dense product scores a chunk of clients against all items; the
residuals of the sampled pairs go into a C × I matrix of zeros, and two more products give both gradients. On
two cores that beats gathering the sampled rows several times over, although most of the matrix is zero.

Residuals. Client c samples item i n_ci times, always with one label y_ci (a negative is never one of its positives), so
its mean loss over N_c samples has ∂L_c/∂s_ci = n_ci · slope(s_ci, y_ci) / N_c, which is zero where n_ci is.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from fedlab_mm.backbones import LinearBackbone
from fedlab_mm.data.negatives import Samples
from fedlab_mm.methods import Method
from fedlab_mm.methods.base import PERSONAL, Batch
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.serverside import ServerSide
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import Engine, LocalWork


@register("engine", "stacked")
class Stacked(Engine):
    """Chunks of `recipe.chunk` clients; the chunk's size changes speed and memory, not the result.

    Clients are taken in the order of how many items they touch, so that those side by side are padded to a common
    length at little cost (padding to the longest client of all costs 17 times the work on KU).
    """

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        kind = kernel_of(self.method)
        kernel = kind(self, sent)
        n_clients, size = len(samples.clients), self.recipe.chunk
        work = LocalWork(
            private={n: p[samples.clients] for n, p in self.private.items()},
            loss_C=torch.empty(n_clients, dtype=self.recipe.dtype),
            n_rows_C=np.empty(n_clients, dtype=np.int64),
            mixed=kernel.mixed,
            kept_CI=None
            if self.kept_UI is None
            else torch.empty(n_clients, self.data.n_items, dtype=self.recipe.dtype),
        )
        alphas = torch.from_numpy(alpha_C).to(self.recipe.dtype)
        by_length = np.argsort(samples.lengths, kind="stable")
        for start in range(0, n_clients, size):
            chosen = by_length[start : start + size]
            pairs = Pairs(samples.take(chosen), self.data.n_items, self.recipe.dtype)
            chunk = {n: p[chosen] for n, p in work.private.items()}
            loss_C, kept_CI = kernel.train(chunk, pairs, alphas[chosen])
            work.loss_C[chosen] = loss_C
            work.n_rows_C[chosen] = (pairs.count_CI > 0).sum(dim=1).numpy()
            for name, p in chunk.items():
                work.private[name][chosen] = p
            if work.kept_CI is not None and kept_CI is not None:
                work.kept_CI[chosen] = kept_CI
        return work

    @torch.no_grad()
    def score_items(self, sent: Mapping[str, Tensor], private: Mapping[str, Tensor]) -> Tensor:
        method = self.method
        n_items = next(len(sent[n]) for n, part in method.parts.items() if part.by_item)
        if kernel_of(method) is not Vmapped and "views" in sent:
            views_IK = sent["views"].flatten(1)
            theta_UD = private["backbone.predictor.weight"][:, 0]
            q_UK = _outer(self._weights(views_IK), theta_UD) if method.routes else theta_UD
            return torch.addmm(private["backbone.predictor.bias"], q_UK, views_IK.T)

        def logits(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
            return method.logits({**sent, **private}, own_I)

        return self._of_each_user(logits, private, n_items)

    @torch.no_grad()
    def router_weights(self) -> Tensor | None:
        method, sent = self.method, self.method.broadcast()
        if not method.routes:
            return None
        if kernel_of(method) is not Vmapped and "views" in sent:
            return self._weights(sent["views"].flatten(1))

        def weights(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
            local = {**sent, **private}
            return method.weights(method.views(local), local, own_I)

        return self._of_each_user(weights, self.private, self.data.n_items)

    def _of_each_user(self, function: Callable[..., Tensor], private: Mapping[str, Tensor], n_items: int) -> Tensor:
        results = []
        for start in range(0, self.data.n_users, self.recipe.chunk):
            users = np.arange(start, min(start + self.recipe.chunk, self.data.n_users))
            histories = self.data.train.take(users)
            own_CI = torch.zeros(len(users), n_items, dtype=self.recipe.dtype)
            own_CI[histories.users, histories.items] = torch.from_numpy(1 / histories.lengths[histories.users]).to(
                own_CI
            )
            results.append(torch.func.vmap(function)({n: p[users] for n, p in private.items()}, own_CI))
        return torch.cat(results)

    def _weights(self, views_IK: Tensor) -> Tensor:
        """w of all users at once, their means over the views as one sparse product."""
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

    def padded(self) -> tuple[Tensor, Tensor]:
        """Each client's items, padded to the longest: where there is one, bool [C, N], and which, int64 [C, N]."""
        c_P, i_P = self.count_CI.nonzero(as_tuple=True)
        n_C = torch.bincount(c_P, minlength=len(self.count_CI))
        there_CN = torch.arange(int(n_C.max())) < n_C[:, None]
        rows_CN = torch.zeros(there_CN.shape, dtype=torch.int64)
        rows_CN[there_CN] = i_P
        return there_CN, rows_CN


class Kernel:
    """Trains chunks of clients. `mixed` gathers Σ_u α_u · (change or gradient) of each part that is uploaded."""

    def __init__(self, engine: Engine, sent: Mapping[str, Tensor]):
        self.engine, self.method, self.sent = engine, engine.method, sent
        self.epochs, self.round = engine.recipe.local_epochs, engine.round + 1
        self.mixed = {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> tuple[Tensor, Tensor | None]:
        """Move the chunk's private parameters in place, add to `mixed`; return the mean losses [C] and, where clients
        keep their items, all scores by them [C, I]."""
        raise NotImplementedError


class Vmapped(Kernel):
    """Any method around any backbone: the loop's own client code, vectorised over clients padded to one length."""

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> tuple[Tensor, Tensor | None]:
        method, parts, n_clients = self.method, self.method.parts, len(alpha_C)
        there_CN, rows_CN = pairs.padded()

        def here(values_CI: Tensor) -> Tensor:
            return torch.where(there_CN, values_CI.gather(1, rows_CN), 0)

        label_CN = here(pairs.label_CI)
        batch = Batch(here(pairs.count_CI) / pairs.n_samples_C1, label_CN, label_CN / pairs.n_positives_C1)
        sent = {n: p[rows_CN] if parts[n].by_item else p.expand(n_clients, *p.shape) for n, p in self.sent.items()}
        personal = private.get(PERSONAL)
        each_C1 = torch.arange(n_clients)[:, None]
        if personal is not None:
            private[PERSONAL] = personal[each_C1, rows_CN]
        loss_C, values = method.client_update(private, sent, batch, self.round, stacked=True)
        if personal is not None:
            c_P, n_P = there_CN.nonzero(as_tuple=True)
            personal[c_P, rows_CN[c_P, n_P]] = private[PERSONAL][c_P, n_P]
            private[PERSONAL] = personal

        for name, total in self.mixed.items():
            change = values[f"∇{name}"] if parts[name].upload == "gradient" else values[name] - sent[name]
            change = change * alpha_C.view(-1, *[1] * (change.ndim - 1))
            if parts[name].by_item:
                total.index_add_(0, rows_CN[there_CN], change[there_CN])
            else:
                total += change.sum(dim=0)
        return loss_C, self.kept(private, values, there_CN, rows_CN, pairs) if self.engine.kept_UI is not None else None

    def kept(
        self, private: dict[str, Tensor], values: dict[str, Tensor], there_CN: Tensor, rows_CN: Tensor, pairs: Pairs
    ) -> Tensor:
        own = {}
        c_P, n_P = there_CN.nonzero(as_tuple=True)
        for name, part in self.method.parts.items():
            if part.moves and part.by_item:
                own[name] = self.sent[name].expand(len(rows_CN), *self.sent[name].shape).clone()
                own[name][c_P, rows_CN[c_P, n_P]] = values[name][c_P, n_P]
            elif part.moves:
                own[name] = values[name]

        def logits(own: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
            return self.method.logits({**self.sent, **own}, own_I)

        with torch.no_grad():
            return torch.func.vmap(logits)({**private, **own}, pairs.label_CI / pairs.n_positives_C1)


class LinearViews(Kernel):
    """Fusion on the server, a score linear in the item: the gradients by hand, over all items at once. Views stand
    still within a round; K = E·D is their width side by side."""

    def __init__(self, engine: Engine, sent: Mapping[str, Tensor]):
        super().__init__(engine, sent)
        self.views_IK = sent["views"].flatten(1)
        self.gradient_IK = self.mixed["views"].flatten(1)  # one memory

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> tuple[Tensor, None]:
        loss, optimizer = self.method.loss, self.method.local_optimizer(private, self.round)
        n_operators = self.sent["views"].shape[1]
        theta_CD, bias_C1 = private["backbone.predictor.weight"][:, 0], private["backbone.predictor.bias"]
        summary_CK = (pairs.label_CI @ self.views_IK) / pairs.n_positives_C1
        loss_C = torch.zeros_like(alpha_C)
        through_router_CK = torch.zeros_like(summary_CK)
        gradients: dict[str, Tensor] = {}
        for _ in range(self.epochs):
            if self.method.routes:
                router = _RouterPass(private, summary_CK)
                q_CK = _outer(router.weights_CE, theta_CD)
            else:
                q_CK = theta_CD
            s_CI = torch.addmm(bias_C1, q_CK, self.views_IK.T)
            loss_C += (pairs.count_CI * loss.of(s_CI, pairs.label_CI)).sum(dim=1)
            residual_CI = loss.slope(s_CI, pairs.label_CI).mul_(pairs.count_CI).div_(pairs.n_samples_C1)

            of_q_CK = residual_CI @ self.views_IK
            of_theta_CD = of_q_CK
            if self.method.routes:
                of_q_CED = of_q_CK.view(-1, n_operators, theta_CD.shape[1])
                of_theta_CD = torch.einsum("ce,ced->cd", router.weights_CE, of_q_CED)
                of_weights_CE = torch.einsum("ced,cd->ce", of_q_CED, theta_CD)
                gradients, of_summary_CK = router.backward(of_weights_CE)
                through_router_CK += of_summary_CK
            gradients["backbone.predictor.weight"] = of_theta_CD[:, None]
            gradients["backbone.predictor.bias"] = residual_CI.sum(dim=1, keepdim=True)
            self.gradient_IK.addmm_(residual_CI.mul_(alpha_C[:, None]).T, q_CK)
            optimizer.step(gradients)
        if self.method.routes:  # the views reach the loss a second way, through the mean that the router reads
            share_C1 = alpha_C[:, None] / pairs.n_positives_C1
            self.gradient_IK.addmm_(pairs.label_CI.T, through_router_CK * share_C1)
        return loss_C / (self.epochs * pairs.n_samples_C1[:, 0]), None


class LinearTable(Kernel):
    """No fusion, a score linear in the item: local training of the touched rows only, flat; entry p is item i_p of
    client c_p, with a row of its own."""

    def train(self, private: dict[str, Tensor], pairs: Pairs, alpha_C: Tensor) -> tuple[Tensor, None]:
        loss = self.method.loss
        table_ID = self.sent["item_table"]
        theta_CD, bias_C1 = private["backbone.predictor.weight"][:, 0], private["backbone.predictor.bias"]
        c_P, i_P = pairs.count_CI.nonzero(as_tuple=True)
        count_P, label_P = pairs.count_CI[c_P, i_P], pairs.label_CI[c_P, i_P]
        share_P = count_P / pairs.n_samples_C1[c_P, 0]
        rows_PD = table_ID[i_P]
        optimizer = self.method.local_optimizer({**private, "item_table": rows_PD}, self.round)
        loss_C = torch.zeros_like(alpha_C)
        for _ in range(self.epochs):
            theta_PD = theta_CD[c_P]
            s_P = (rows_PD * theta_PD).sum(dim=1) + bias_C1[c_P, 0]
            loss_C.index_add_(0, c_P, share_P * loss.of(s_P, label_P))
            residual_P = share_P * loss.slope(s_P, label_P)
            of_theta_CD = torch.zeros_like(theta_CD).index_add_(0, c_P, residual_P[:, None] * rows_PD)
            of_bias_C = torch.zeros_like(alpha_C).index_add_(0, c_P, residual_P)
            optimizer.step(
                {
                    "backbone.predictor.weight": of_theta_CD[:, None],
                    "backbone.predictor.bias": of_bias_C[:, None],
                    "item_table": residual_P[:, None] * theta_PD,
                }
            )
        self.mixed["item_table"].index_add_(0, i_P, alpha_C[c_P, None] * (rows_PD - table_ID[i_P]))
        return loss_C / self.epochs, None


def kernel_of(method: Method) -> type[Kernel]:
    """The kernel that trains a method's clients: one with gradients by hand where there is one."""
    backbone = method.client.backbone
    plain = isinstance(backbone, LinearBackbone) and not (
        backbone.personal_table or backbone.alternates or backbone.keeps_items or backbone.own_table
    )
    if plain and type(backbone).forward is LinearBackbone.forward:
        if isinstance(method, ServerSide):
            return LinearViews
        if isinstance(method, NoFusion):
            return LinearTable
    return Vmapped


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
