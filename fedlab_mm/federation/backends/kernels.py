"""How a chunk of clients trains at once: what `stacked` is made of.

Clients lie side by side, their items padded to the longest of the chunk (clients are taken in the order of how many
items they touch, so that little is padded). A chunk gathers the item rows that it touches once a round and stays in
cache through all local epochs.

`Vmapped` trains any method around any backbone: the client code that `loop` runs, vectorised. `Linear` has the
gradients by hand where a score is linear in the item and fusion is on the server, or nowhere:

    s_n = q·x_n + θ·p_n + b        x_n: the item's views side by side [E·D], or the client's copy of its table row [D]
                                   q = w ⊗ θ, the router's weights times the predictor; θ alone without a router
                                   p_n: the client's personal row, if it has any

Views stand still within a round. So an epoch's gradient with respect to them is the outer product of the residuals and
q, and the sum over epochs is one matrix product at the end; and a router reads the same input in every epoch, so that
under SGD its first layer moves by a matrix of rank one (`RankOneLayer`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.backbones import Backbone, LinearBackbone
from fedlab_mm.data.negatives import Samples
from fedlab_mm.methods import Method
from fedlab_mm.methods.base import PERSONAL, Batch
from fedlab_mm.methods.fedmr import FedMR
from fedlab_mm.methods.gfmfr import GFMFR, RATIO, divergence, divergence_slope
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.serverside import ServerSide
from fedlab_mm.routing import Router
from fedlab_mm.simulation.engine import Engine, sends_rows
from fedlab_mm.simulation.state import RankOne

GUARDED = 8e6  # numbers that are guarded at a time
WEIGHT, BIAS, HIDDEN = "backbone.predictor.weight", "backbone.predictor.bias", "router.hidden.weight"


@dataclass(frozen=True)
class Touched:
    """The items that a round's clients touch, each once, flat: client c's lie at indptr[c] to indptr[c + 1], ascending.

    Client c samples item i so many times (`count_P`), always with one label (a negative is never one of its positives).
    """

    indptr: np.ndarray
    items_P: Tensor
    count_P: Tensor
    label_P: Tensor
    n_samples_C: Tensor
    n_positives_C: Tensor

    @classmethod
    def of(cls, samples: Samples, n_items: int, device: torch.device, dtype: torch.dtype) -> "Touched":
        lengths = samples.lengths
        client = np.repeat(np.arange(len(lengths)), lengths)
        keys = np.sort((client * n_items + samples.items) * 2 + samples.labels)
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        pairs, labels = keys[first] // 2, keys[first] % 2
        indptr = np.searchsorted(pairs, np.arange(len(lengths) + 1) * n_items)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device, dtype)

        return cls(
            indptr,
            torch.from_numpy(pairs % n_items).to(device),
            tensor(np.diff(first, append=len(keys))),
            tensor(labels),
            tensor(lengths),
            tensor(samples.n_positives),
        )

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.indptr)


@dataclass
class Chunk:
    """Some of a round's clients and what they are trained on.

    Attributes:
        users: who they are.
        rows_CN: their items; there_CN: false where a row is padding (its shares are zero, so it changes nothing).
        batch: shares, labels and the router's shares of those rows.
        alpha_C: their weights in the aggregation.
        private: name -> [C, …], copies, which a kernel moves in place or replaces by how they change.
        personal_CNW: their personal rows, which a kernel moves in place.
    """

    users: Tensor
    rows_CN: Tensor
    there_CN: Tensor
    batch: Batch
    alpha_C: Tensor
    private: dict[str, Tensor | RankOne]
    personal_CNW: Tensor | None

    @classmethod
    def of(cls, engine: Engine, touched: Touched, clients: np.ndarray, chosen: np.ndarray, alpha_C: Tensor) -> "Chunk":
        """The clients at the positions `chosen` among the round's `clients`."""
        lengths, device = touched.lengths[chosen], engine.device
        there = np.arange(lengths.max(initial=1)) < lengths[:, None]
        where_CN = torch.from_numpy(np.where(there, touched.indptr[chosen][:, None] + np.arange(there.shape[1]), 0)).to(
            device
        )
        there_CN, picked = torch.from_numpy(there).to(device), torch.from_numpy(chosen).to(device)
        label_CN = touched.label_P[where_CN] * there_CN
        rows_CN = touched.items_P[where_CN]
        batch = Batch(
            share_N=touched.count_P[where_CN] * there_CN / touched.n_samples_C[picked, None],
            label_N=label_CN,
            own_N=label_CN / touched.n_positives_C[picked, None],
        )
        users = torch.from_numpy(clients[chosen]).to(device)
        personal = None if engine.personal is None else engine.personal.read(users[:, None].expand_as(rows_CN), rows_CN)
        private: dict[str, Tensor | RankOne] = {n: p[users] for n, p in engine.private.items()}
        return cls(users, rows_CN, there_CN, batch, alpha_C[picked], private, personal)

    def gather(self, table: Tensor) -> Tensor:
        """The rows of a table by item: [I, …] in, [C, N, …] out."""
        return table.index_select(0, self.rows_CN.flatten()).view(*self.rows_CN.shape, *table.shape[1:])

    def add_to(self, total: Tensor, change: Tensor) -> None:
        """total[i] += Σ over the rows that are item i, each client's weighted: [I, …] and [C, N, …]. Padding must be
        zero or will be multiplied by zero."""
        weight_CN = self.there_CN * self.alpha_C[:, None]
        self.add_weighted(total, change * weight_CN.view(*weight_CN.shape, *[1] * (change.ndim - 2)))

    def add_weighted(self, total: Tensor, change: Tensor) -> None:
        """The same of what is weighted already, and zero in padding."""
        total.index_add_(0, self.rows_CN.flatten(), change.flatten(0, 1))


class Kernel:
    """Trains chunks of one round's clients.

    Attributes:
        cache: bytes that a chunk should work on. More is slower by misses, less by the calls for each chunk.
        most_rows: of a client, for which it is the right one.
        mixed: gathers Σ_u α_u · (change or gradient) of each part that is uploaded, over all chunks.
    """

    cache: ClassVar[float] = 16e6
    most_rows: ClassVar[float] = float("inf")

    def __init__(self, engine: Engine, sent: Mapping[str, Tensor], mixed: dict[str, Tensor]):
        self.engine, self.method, self.sent, self.mixed = engine, engine.method, sent, mixed
        self.recipe, self.round = engine.recipe, engine.round + 1
        self.sent_rows: dict[int, int] = {}
        self.pairs: list[tuple[Tensor, ...]] = []  # user, item, change, is it one: where the server groups clients

    def given(self, name: str, chunk: Chunk) -> Tensor:
        """What each client of a chunk is sent of a part: its rows, and of a part by group its group's column."""
        part, value = self.method.parts[name], self.sent[name]
        if not part.by_item:
            return value.expand(len(chunk.alpha_C), *value.shape)
        rows = chunk.gather(value)
        if not part.by_group or self.engine.groups is None:
            return rows
        column_C = self.engine.groups.columns(chunk.users)
        return rows.gather(2, column_C[:, None, None].expand(-1, rows.shape[1], 1))[:, :, 0]

    def bytes_of_client(self, n_rows: Any) -> Any:
        """What a client with so many rows works on through its local epochs; a number or an array of them."""
        raise NotImplementedError

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """Move the chunk's private parameters, add to `mixed`; return the mean losses [C] and, where clients keep their
        items, all scores by them [C, I]."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last chunk: what can be added to `mixed` for all clients at once."""

    def hand_in(self, chunk: Chunk, changes: Mapping[str, Tensor]) -> None:
        """Add what each client uploads of each part, as it leaves the client, to `mixed`, weighted.

        Args:
            changes: name -> [C, N, …] for the chunk's rows of a part by item (anything in padding), [C, …] of others.
        """
        parts, guard = self.method.parts, self.engine.guard
        if guard.idle:
            if self.engine.groups is not None:
                self._keep_pairs(chunk.users, chunk.rows_CN, chunk.there_CN, changes["item_table"])
            for name, change in changes.items():
                if parts[name].by_item:
                    chunk.add_to(self.mixed[name], change)
                else:
                    self.mixed[name] += torch.tensordot(chunk.alpha_C, change, dims=1)
            return
        there_CN, n_items = chunk.there_CN, self.method.n_items
        changes = {n: c * _as(there_CN, c) if parts[n].by_item else c for n, c in changes.items()}
        factor_C = guard.factor_C(changes)
        numbers = max(there_CN.shape[1], n_items) * max(math.prod(self.mixed[n].shape[1:]) for n in changes)
        step = max(1, int(GUARDED / numbers))
        for start in range(0, len(there_CN), step):
            some = slice(start, start + step)
            moved = {n: c[some] * _as(factor_C[some], c) for n, c in changes.items()}
            self._add_guarded(
                chunk.users[some].cpu().numpy(), chunk.rows_CN[some], there_CN[some], moved, chunk.alpha_C[some]
            )

    def _keep_pairs(self, users_C: Tensor, rows_CN: Tensor, sent_CN: Tensor, change_CNW: Tensor) -> None:
        users_CN = users_C[:, None].expand_as(rows_CN)
        self.pairs.append((users_CN.flatten(), rows_CN.flatten(), change_CNW.flatten(0, 1), sent_CN.flatten()))

    def _add_guarded(
        self, clients: np.ndarray, rows_CN: Tensor, there_CN: Tensor, changes: Mapping[str, Tensor], alpha_C: Tensor
    ) -> None:
        """The same of clipped changes, zero in padding: choose the rows that are sent, add noise, weigh, add."""
        guard, n_clients, n_items = self.engine.guard, len(clients), self.method.n_items
        c_P, n_P = there_CN.nonzero(as_tuple=True)
        i_P = rows_CN[c_P, n_P]
        touched_CI = torch.zeros(n_clients, n_items, dtype=torch.bool, device=there_CN.device)
        touched_CI[c_P, i_P] = True
        sent_CI = guard.sent_CI(touched_CI, clients, self.round)
        if any(sends_rows(self.method, n) for n in changes):
            self.sent_rows |= dict(zip(clients.tolist(), sent_CI.sum(dim=1).tolist(), strict=True))
        every_CI = torch.arange(n_items, device=there_CN.device).expand(n_clients, -1)
        for name, moved in changes.items():
            where = told = None
            if self.method.parts[name].by_item:
                where, told = rows_CN, there_CN
                if guard.rows != "touched" or not sends_rows(self.method, name):  # rows are sent that it did not touch
                    where, told = every_CI, sent_CI if sends_rows(self.method, name) else torch.ones_like(sent_CI)
                    whole = moved.new_zeros(n_clients, *self.mixed[name].shape)
                    whole[c_P, i_P] = moved[c_P, n_P]
                    moved = whole * _as(told, whole)
            if guard.noise:
                noise = guard.noise_of(name, moved, clients, self.round, where)
                moved = moved + (noise if told is None else noise * _as(told, noise))
            if self.engine.groups is not None and name == "item_table" and where is not None and told is not None:
                self._keep_pairs(torch.from_numpy(clients).to(where.device), where, told, moved)
            if where is rows_CN:
                weighted = moved * _as(alpha_C, moved)
                self.mixed[name].index_add_(0, rows_CN.flatten(), weighted.flatten(0, 1))
            else:
                self.mixed[name] += torch.tensordot(alpha_C, moved, dims=1)


class Vmapped(Kernel):
    """Any method around any backbone: the loop's own client code, vectorised over clients."""

    cache = 64e6

    def bytes_of_client(self, n_rows: Any) -> Any:
        parts = self.method.parts
        rows = sum(p[0].numel() for n, p in self.sent.items() if parts[n].by_item)
        whole = sum(3 * p.numel() for n, p in self.sent.items() if not parts[n].by_item)  # copy, gradient, their sum
        private = sum(2 * p[0].numel() for p in self.engine.private.values())
        personal = 0 if self.engine.personal is None else self.engine.personal.initial_IW.shape[1]
        return self.recipe.dtype.itemsize * (3 * n_rows * (rows + personal) + whole + private)

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        method, parts = self.method, self.method.parts
        sent = {n: self.given(n, chunk) for n in self.sent}
        private = tensors_of(chunk.private)
        if chunk.personal_CNW is not None:
            private[PERSONAL] = chunk.personal_CNW
        loss_C, values = method.client_update(private, sent, chunk.batch, self.round, stacked=True)
        changes = {
            name: values[f"∇{name}"] if parts[name].upload == "gradient" else values[name] - sent[name]
            for name in self.mixed
        }
        self.hand_in(chunk, changes)
        return loss_C, None if self.engine.kept_UI is None else self._kept(chunk, private, values)

    def _kept(self, chunk: Chunk, private: dict[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
        """Every item's score by each client's own copies."""
        c_P, n_P = chunk.there_CN.nonzero(as_tuple=True)
        i_P, n_clients, n_items = chunk.rows_CN[c_P, n_P], len(chunk.alpha_C), self.method.n_items

        def whole(table: Tensor, rows: Tensor) -> Tensor:
            tables = table.expand(n_clients, *table.shape).clone()
            tables[c_P, i_P] = rows[c_P, n_P]
            return tables

        own = {
            n: whole(self.sent[n], values[n]) if p.by_item else values[n]
            for n, p in self.method.parts.items()
            if p.moves
        }
        if chunk.personal_CNW is not None:
            own[PERSONAL] = self.engine.personal.dense(chunk.users)  # type: ignore[union-attr]
            own[PERSONAL][c_P, i_P] = chunk.personal_CNW[c_P, n_P]
        own_CI = whole(chunk.alpha_C.new_zeros(n_items), chunk.batch.own_N)

        def logits(own: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
            return self.method.logits({**self.sent, **own}, own_I)

        with torch.no_grad():
            return torch.func.vmap(logits)({**private, **own}, own_CI)


class Linear(Kernel):
    """A score linear in the item, fusion on the server or nowhere: gradients by hand."""

    def __init__(self, engine: Engine, sent: Mapping[str, Tensor], mixed: dict[str, Tensor]):
        super().__init__(engine, sent, mixed)
        self.part = "views" if "views" in sent else "item_table"
        self.table_IK = sent[self.part].flatten(1)

    @staticmethod
    def fits(method: Method) -> bool:
        backbone = method.client.backbone
        return (
            scores_linearly(method)
            and isinstance(method, (ServerSide, NoFusion))
            and not (backbone.keeps_items and backbone.personal_table)
        )

    def bytes_of_client(self, n_rows: Any) -> Any:
        width = self.table_IK.shape[1]
        if self.engine.personal is not None:
            width += 6 * self.engine.personal.initial_IW.shape[1]
        by_hand = {HIDDEN} if self.recipe.optimizer == "sgd" else set()
        private = sum(p[0].numel() for n, p in self.engine.private.items() if n not in by_hand)
        return self.recipe.dtype.itemsize * (2 * n_rows * width + 3 * private)

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        clients = _LinearClients(self, chunk)
        together = len(self.method.phases()) == 1
        loss_C = torch.zeros_like(chunk.alpha_C)
        for epoch in range(self.recipe.local_epochs):
            loss_C += clients.step(epoch, private=True, shared=together)
            if not together:
                clients.step(epoch, private=False, shared=True)
        clients.add_to(self.mixed[self.part])
        return loss_C / self.recipe.local_epochs, None if self.engine.kept_UI is None else clients.scores()


class _LinearClients:
    """A chunk of clients under `Linear`, through its local epochs."""

    def __init__(self, kernel: Linear, chunk: Chunk):
        self.kernel, self.chunk, self.batch = kernel, chunk, chunk.batch
        self.method, self.loss = kernel.method, kernel.method.loss
        private = tensors_of(chunk.private)
        self.theta_CD, self.bias_C1 = private[WEIGHT][:, 0], private[BIAS]
        self.x_CNK, self.personal_CND = chunk.gather(kernel.table_IK), chunk.personal_CNW
        self.routers = _Routers(kernel, chunk, private, self.x_CNK) if self.method.routes else None
        moved = {n: p for n, p in private.items() if self.routers is None or n not in self.routers.by_hand}
        if self.personal_CND is not None:
            moved[PERSONAL] = self.personal_CND
        if kernel.part == "item_table":
            moved["item_table"] = self.x_CNK
        self.optimizer = self.method.local_optimizer(moved, kernel.round)
        self.guided: Mapping[str, Tensor] = {}
        if isinstance(self.method, GFMFR):
            preferences_CN = kernel.given("preferences", chunk)
            ratio_C1 = private[RATIO]
            self.guided = self.method.guided(
                self.logits(self.q()[1]), preferences_CN, self.batch, ratio_C1, kernel.round
            )
        self.through_views: list[tuple[Tensor, Tensor]] = []  # (residual_CN, q_CK) of each epoch
        self.of_common_CNK: Tensor | None = None  # the penalty's gradient with respect to the views, summed

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
        if self.guided:
            weight_C, preferences_CN = self.guided["guidance"], self.guided["preferences"]
            loss_C += weight_C * (share_CN * divergence(s_CN, preferences_CN)).sum(dim=1)
            slope_CN = slope_CN + weight_C[:, None] * divergence_slope(s_CN, preferences_CN)
        residual_CN = slope_CN * share_CN
        of_items_CND, of_common_CND = residual_CN[:0, :, None], None
        if self.rows_move:
            of_items_CND = residual_CN[:, :, None] * self.theta_CD[:, None]
        if self.personal_CND is not None:
            penalty_C, of_common_CND, of_personal_CND = self._penalty(weights_CE, self.personal_CND)
            loss_C += penalty_C
            of_personal_CND = of_personal_CND + of_items_CND

        gradients: dict[str, Tensor] = {}
        of_q_CK = times(residual_CN, self.x_CNK)
        if private:
            of_theta_CD = of_q_CK
            if weights_CE is not None:
                of_theta_CD = (of_q_CK.view(*weights_CE.shape, -1) * weights_CE[:, :, None]).sum(dim=1)
            if self.personal_CND is not None:
                of_theta_CD = of_theta_CD + times(residual_CN, self.personal_CND)
                gradients[PERSONAL] = of_personal_CND
            gradients[WEIGHT] = of_theta_CD[:, None]
            gradients[BIAS] = residual_CN.sum(dim=1, keepdim=True)
        if self.routers is not None and weights_CE is not None:
            of_weights_CE = (of_q_CK.view(*weights_CE.shape, -1) * self.theta_CD[:, None]).sum(dim=2)
            if of_common_CND is not None:
                of_weights_CE += (self._views() * of_common_CND[:, :, None]).sum(dim=(1, 3))
            of_router = self.routers.backward(of_weights_CE)
            if private:
                gradients |= of_router
            if shared:
                self.routers.read()
        if shared and self.kernel.part == "item_table":
            gradients["item_table"] = of_items_CND if of_common_CND is None else of_items_CND + of_common_CND
        elif shared:
            self.through_views.append((residual_CN, q_CK if self.routers is not None else q_CK.clone()))  # θ moves
            if of_common_CND is not None:
                spread = of_common_CND if weights_CE is None else outer(weights_CE, of_common_CND)
                self.of_common_CNK = spread if self.of_common_CNK is None else self.of_common_CNK + spread
        self.optimizer.step(gradients)
        if private and self.routers is not None:
            self.routers.step(epoch)
        return loss_C

    def add_to(self, total: Tensor) -> None:
        """What the clients upload of their items."""
        if self.kernel.part == "item_table":
            change_CNK = self.x_CNK - self.chunk.gather(self.kernel.table_IK)
            self.kernel.hand_in(self.chunk, {"item_table": change_CNK})
            return
        if self.routers is not None:  # views reach the loss a second way, through the mean that the router reads
            self.through_views.append((self.batch.own_N, self.routers.of_input()))
            if isinstance(self.routers.layer, RankOneLayer):
                self.chunk.private[HIDDEN] = self.routers.layer.change()
        guarded = not self.kernel.engine.guard.idle
        alpha_C11 = torch.ones_like(self.chunk.alpha_C)[:, None, None] if guarded else self.chunk.alpha_C[:, None, None]
        residual_CNT = torch.stack([r for r, _ in self.through_views], dim=2) * alpha_C11  # zero in padding
        of_views_CNK = torch.bmm(residual_CNT, torch.stack([q for _, q in self.through_views], dim=1))
        if self.of_common_CNK is not None:
            of_views_CNK.addcmul_(self.of_common_CNK, alpha_C11 * self.chunk.there_CN[:, :, None])
        if guarded:  # weighted after the guard, not before
            self.kernel.hand_in(self.chunk, {"views": of_views_CNK.view(*of_views_CNK.shape[:2], *total.shape[1:])})
        else:
            self.chunk.add_weighted(total.view(len(total), -1), of_views_CNK)

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
            of_common, of_personal = torch.autograd.grad(
                penalty_C.sum(), leaves, materialize_grads=True, allow_unused=True
            )
        return penalty_C.detach(), of_common, of_personal


class _Routers:
    """A chunk's routers, each with weights of its own: w = softmax(W₂ relu(W₁x + b₁) + b₂), x standing still."""

    def __init__(self, kernel: Linear, chunk: Chunk, private: Mapping[str, Tensor], x_CNK: Tensor):
        self.kernel, self.private = kernel, private
        kind = RankOneLayer if kernel.recipe.optimizer == "sgd" else PlainLayer
        self.layer = kind(private[HIDDEN], times(chunk.batch.own_N, x_CNK))
        self.by_hand = {HIDDEN} if kind is RankOneLayer else set()

    def weights(self) -> Tensor:
        """w_u [C, E]."""
        self.hidden_CH = torch.relu(self.layer.product() + self.private["router.hidden.bias"])
        logits_CE = times(self.hidden_CH, self.private["router.output.weight"].mT) + self.private["router.output.bias"]
        self.weights_CE = torch.softmax(logits_CE, dim=1)
        return self.weights_CE

    def backward(self, of_weights_CE: Tensor) -> dict[str, Tensor]:
        """From ∂L/∂w: the gradients of the routers' parameters, but for those moved by hand."""
        centred = of_weights_CE - (self.weights_CE * of_weights_CE).sum(dim=1, keepdim=True)
        of_logits_CE = self.weights_CE * centred
        self.of_hidden_CH = times(of_logits_CE, self.private["router.output.weight"]) * (self.hidden_CH > 0)
        return {
            "router.hidden.bias": self.of_hidden_CH,
            "router.output.weight": of_logits_CE[:, :, None] * self.hidden_CH[:, None, :],
            "router.output.bias": of_logits_CE,
            **({} if self.by_hand else {HIDDEN: self.layer.gradient(self.of_hidden_CH)}),
        }

    def read(self) -> None:
        """Count in the last gradient for what the routers read."""
        self.layer.read(self.of_hidden_CH)

    def step(self, epoch: int) -> None:
        if isinstance(self.layer, RankOneLayer):
            lr = self.kernel.method.local_rate(HIDDEN, self.kernel.round, epoch)
            self.layer.step(self.of_hidden_CH, lr, self.kernel.recipe.weight_decay)

    def of_input(self) -> Tensor:
        """The gradient with respect to what the routers read, summed over the epochs: [C, K]."""
        return self.layer.of_input()


class PlainLayer:
    """W x with a W for each client, which an optimiser moves."""

    def __init__(self, weight_CHK: Tensor, read_CK: Tensor):
        self.weight_CHK, self.read_CK = weight_CHK, read_CK
        self.sum_CK = torch.zeros_like(read_CK)

    def product(self) -> Tensor:
        return times(self.read_CK, self.weight_CHK.mT)

    def gradient(self, of_product_CH: Tensor) -> Tensor:
        return of_product_CH[:, :, None] * self.read_CK[:, None]

    def read(self, of_product_CH: Tensor) -> None:
        self.sum_CK += times(of_product_CH, self.weight_CHK)

    def of_input(self) -> Tensor:
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

    def read(self, of_product_CH: Tensor) -> None:
        self.direct_CH.add_(of_product_CH, alpha=self.scale)
        self.along_C1 += (self.moved_CH * of_product_CH).sum(dim=1, keepdim=True)

    def step(self, of_product_CH: Tensor, lr: float, weight_decay: float) -> None:
        shrink = 1 - lr * weight_decay
        self.product_CH = shrink * self.product_CH - lr * self.square_C1 * of_product_CH
        self.moved_CH = shrink * self.moved_CH + lr * of_product_CH
        self.scale *= shrink

    def of_input(self) -> Tensor:
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
            getattr(type(method), n) is getattr(Method, n) for n in ("weights", "fuse", "score", "objective", "logits")
        )
        and type(method).represent in (Method.represent, NoFusion.represent, FedMR.represent)
    )


def times(vector_Cx: Tensor, matrix_Cxy: Tensor) -> Tensor:
    """vᵀM for each client, [C, y]. A row times a matrix: on two cores batched products with a column take nine times as
    long."""
    return torch.bmm(vector_Cx[:, None], matrix_Cxy)[:, 0]


def outer(weights_CE: Tensor, vectors: Tensor) -> Tensor:
    """w_ce · v_c…d, side by side: [C, …, D] in, [C, …, E·D] out."""
    weights = weights_CE.view(len(weights_CE), *[1] * (vectors.ndim - 2), -1, 1)
    return (weights * vectors.unsqueeze(-2)).flatten(-2)


def tensors_of(private: Mapping[str, Tensor | RankOne]) -> dict[str, Tensor]:
    return {n: p for n, p in private.items() if isinstance(p, Tensor)}


def _as(leading: Tensor, like: Tensor) -> Tensor:
    """A mask or factor of the leading axes, ready to multiply with."""
    return leading.view(*leading.shape, *[1] * (like.ndim - leading.ndim))
