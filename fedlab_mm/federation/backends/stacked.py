"""The fast engine: a chunk of clients at once. Equal to `loop`; tests hold it to that.

How a chunk trains is in `kernels.py` and `gram.py`; here is what surrounds it: chunks that stay in cache, scoring in
blocks. Nothing is sped up by doing less: the same samples, epochs and precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedlab_mm.data.negatives import Samples
from fedlab_mm.methods import Method
from fedlab_mm.methods.base import PERSONAL
from fedlab_mm.methods.fedmr import FedMR
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import Engine, LocalWork
from fedlab_mm.simulation.gram import Gram
from fedlab_mm.simulation.kernels import (
    BIAS,
    HIDDEN,
    WEIGHT,
    Chunk,
    Kernel,
    Linear,
    Touched,
    Vmapped,
    outer,
    scores_linearly,
    times,
)
from fedlab_mm.simulation.state import RankOne
from fedlab_mm.threads import lap

MOST = 4096  # clients of a chunk


@register("engine", "stacked")
class Stacked(Engine):
    """Chunks of `recipe.chunk` clients, or as many as fit the cache; the chunk's size changes speed and memory, not the
    result."""

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        mixed = {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}
        kinds = kernels_of(self.method) if self.guard.idle else [k for k in kernels_of(self.method) if k is not Gram]
        kernels = [kind(self, sent, mixed) for kind in kinds]  # Gram sums over clients before anything can be clipped
        touched = Touched.of(samples, self.data.n_items, self.device, self.recipe.dtype)
        n_clients = len(samples.clients)
        weight_C = torch.from_numpy(alpha_C).to(self.device, self.recipe.dtype)
        work = LocalWork({}, weight_C.new_empty(n_clients), touched.lengths, mixed)
        personal: list[tuple[Tensor, Tensor, Tensor]] = []
        if self.kept_UI is not None:
            work.kept_CI = weight_C.new_empty(n_clients, self.data.n_items)
        for kernel, chosen in self._chunks(touched.lengths, kernels):
            chunk = Chunk.of(self, touched, samples.clients, chosen, weight_C)
            loss_C, kept_CI = kernel.train(chunk)
            where = torch.from_numpy(chosen).to(self.device)
            work.loss_C[where] = loss_C
            for name, new in chunk.private.items():
                _put(work.private, name, new, where, n_clients)
            if chunk.personal_CNW is not None:
                c_P, n_P = chunk.there_CN.nonzero(as_tuple=True)
                personal.append((where[c_P], chunk.rows_CN[c_P, n_P], chunk.personal_CNW[c_P, n_P]))
            if work.kept_CI is not None and kept_CI is not None:
                work.kept_CI[where] = kept_CI
            lap(chunk.rows_CN.numel())
        for kernel in kernels:
            kernel.finish()
        if self.groups is not None:
            self._show(work, samples, [pair for kernel in kernels for pair in kernel.pairs])
        told = {user: n for kernel in kernels for user, n in kernel.sent_rows.items()}
        if told:
            work.n_rows_C = np.array([told[user] for user in samples.clients.tolist()])
        if personal:
            work.personal = tuple(map(torch.cat, zip(*personal, strict=True)))  # type: ignore[assignment]
        return work

    def _show(self, work: LocalWork, samples: Samples, pairs: Sequence[tuple[Tensor, ...]]) -> None:
        """What the server groups clients by: the rows that they uploaded, and the private parameters that they show."""
        work.pairs = tuple(map(torch.cat, zip(*pairs, strict=True)))  # type: ignore[assignment]
        shown = [work.loss_C.new_empty(len(samples.clients), 0)]
        for name in self.method.shown:
            value = work.private[name]
            assert isinstance(value, Tensor)
            if self.guard.noise:
                value = value + self.guard.noise_of(name, value, samples.clients, self.round + 1, None)
            shown.append(value[:, None].flatten(1))
        work.shown_CK = torch.cat(shown, dim=1)

    def _chunks(self, lengths: np.ndarray, kernels: Sequence[Kernel]) -> Iterator[tuple[Kernel, np.ndarray]]:
        """Positions of clients, in the order of how many rows they have, and who trains them. A chunk ends where the
        cache is full, or where padding would fill a quarter of it: on KU clients have 4 positives, and 250."""
        by_length = np.argsort(lengths, kind="stable")
        lengths = lengths[by_length]
        start = 0
        for kernel in kernels:
            end = int(np.searchsorted(lengths, kernel.most_rows, side="right"))
            room = self._room(kernel)
            while start < end:
                ahead = lengths[start : min(end, start + (self.recipe.chunk or MOST))]
                size, each = np.arange(1, len(ahead) + 1), kernel.bytes_of_client(ahead)
                work, padding = size * each, size * each - np.cumsum(each)
                fits = (work <= room) & (padding <= room / 4)
                stop = start + max(1, len(ahead) if fits.all() else int(fits.argmin()))
                yield kernel, by_length[start:stop]
                start = stop

    def _room(self, kernel: Kernel) -> float:
        if self.recipe.chunk is not None:
            return float("inf")
        return torch.cuda.mem_get_info(self.device)[0] / 8 if self.device.type == "cuda" else kernel.cache

    @property
    def linear(self) -> bool:
        """Are scores linear in item rows that are the same to all clients, but for a personal row?"""
        of_fedmr = isinstance(self.method, FedMR) and self.personal is None
        return Linear.fits(self.method) or (of_fedmr and scores_linearly(self.method))

    def prepared(self, sent: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.linear and isinstance(self.method, FedMR):  # the views of the global model, which all clients share
            return {**sent, "views": self.method.views(sent).transpose(0, 1)}
        return sent

    def score_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        method = self.method
        if not self.linear:

            def logits(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
                return method.logits({**sent, **private}, own_I)

            return self._of_each_user(logits, sent, users)
        table_IK = sent["views" if "views" in sent else "item_table"].flatten(1)
        theta_CD = self.private[WEIGHT][users, 0]
        q_CK = outer(self.weights_of_users(sent, users), theta_CD) if method.routes else theta_CD
        scores_CI = torch.addmm(self.private[BIAS][users], q_CK, table_IK.T)
        if self.personal is not None:
            scores_CI[:, : self.data.n_items] += theta_CD @ self.personal.initial_IW.T
            c_P, i_P, slot_P = self.personal.touched(users)
            change_PW = self.personal.pool[slot_P] - self.personal.initial_IW[i_P]
            scores_CI[c_P, i_P] += (change_PW * theta_CD[c_P]).sum(dim=1)
        return scores_CI

    def _fresh_numbers(self, initial: Mapping[str, Tensor]) -> int:
        changes = {HIDDEN} if Linear.fits(self.method) and self.recipe.optimizer == "sgd" else set()  # of rank one
        return super()._fresh_numbers({n: p for n, p in initial.items() if n not in changes})

    def weights_of_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        method = self.method
        if not self.linear:

            def weights(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
                local = {**sent, **private}
                return method.weights(method.views(local), local, own_I)

            return self._of_each_user(weights, sent, users)
        histories = self.data.train.take(np.arange(users.start, users.stop))
        items, offsets = (torch.from_numpy(a).to(self.device) for a in (histories.items, histories.indptr[:-1]))
        summary_CK = F.embedding_bag(items, sent["views"].flatten(1), offsets, mode="mean")
        own = {n.removeprefix("router."): p[users] for n, p in self.private.items() if n.startswith("router.")}
        hidden_CH = torch.relu(times(summary_CK, self.private[HIDDEN][users].mT) + own["hidden.bias"])
        return torch.softmax(times(hidden_CH, own["output.weight"].mT) + own["output.bias"], dim=1)

    def bytes_to_score(self, n_items: int) -> float:
        size = self.recipe.dtype.itemsize
        if self.linear:
            width = 0 if self.personal is None else self.personal.initial_IW.shape[1]
            return 4 * (1 + width) * n_items * size
        n_views = len(self.views) if self.method.routes else 1
        return n_items * size * (n_views + 8) * self.method.client.backbone.item_width

    def _of_each_user(self, function: Callable[..., Tensor], sent: Mapping[str, Tensor], users: slice) -> Tensor:
        """A function of a user's private parameters and 1 / n_u at its training items, vectorised over users."""
        n_items = self.method.n_rows(sent)
        private = {n: p[users] for n, p in self.private.items()}
        if self.personal is not None:
            private[PERSONAL] = self.personal.dense(users, n_items)
        return torch.func.vmap(function)(private, self._own(users, n_items))


def kernels_of(method: Method) -> list[type[Kernel]]:
    """The kernels that train a method's clients: those with gradients by hand that fit, each up to its `most_rows`, and
    the general one."""
    return [kind for kind in (Linear, Gram) if kind.fits(method)] + [Vmapped]


def _put(into: dict[str, Tensor | RankOne], name: str, new: Tensor | RankOne, where: Tensor, n_clients: int) -> None:
    """Gather a chunk's results in the round's."""
    if isinstance(new, RankOne):
        if name not in into:
            moved, read = (v.new_empty(n_clients, v.shape[1]) for v in (new.moved_CH, new.read_CK))
            into[name] = RankOne(new.scale, moved, read)
        whole = into[name]
        assert isinstance(whole, RankOne)
        whole.moved_CH[where], whole.read_CK[where] = new.moved_CH, new.read_CK
        return
    if name not in into:
        into[name] = new.new_empty(n_clients, *new.shape[1:])
    whole = into[name]
    assert isinstance(whole, Tensor)
    whole[where] = new
