"""The fast backend: a chunk of clients at once. Equal to `loop`; tests hold it to that.

How a chunk trains is in `kernels.py`, `linear.py` and `gram.py`. Here is what surrounds it: chunks that stay in cache,
scoring in blocks. Nothing is sped up by doing less: the same samples, epochs and precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedlab_mm.data.negatives import Samples
from fedlab_mm.federation.backends.base import Ranks
from fedlab_mm.federation.backends.chunks import Chunk, Touched
from fedlab_mm.federation.backends.gram import Gram
from fedlab_mm.federation.backends.kernels import Kernel, Vmapped
from fedlab_mm.federation.backends.linear import BIAS, HIDDEN, WEIGHT, LinearScores, outer, scores_linearly
from fedlab_mm.federation.backends.solved import Solved
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.client import Work
from fedlab_mm.federation.state import RankOne
from fedlab_mm.methods import Method
from fedlab_mm.methods.fedmr import FedMR
from fedlab_mm.methods.parts import PERSONAL, Parameters
from fedlab_mm.registry import register
from fedlab_mm.routing import choose, times
from fedlab_mm.threads import lap

MOST = 4096  # clients of a chunk


@register("engine", "stacked")
class Stacked(Ranks):
    """Chunks of `recipe.chunk` clients, or as many as fit the cache; the chunk's size changes speed and memory, not the
    result."""

    def train(self, samples: Samples, alpha_C: np.ndarray, sent: Parameters, intake: Intake) -> Work:
        f = self.federation
        kinds = kernels_of(f.method)
        if not intake.channel.transparent:  # Gram sums over clients before anybody could see one
            kinds = [kind for kind in kinds if kind is not Gram]
        kernels = [kind(f, sent, intake) for kind in kinds]
        touched = Touched.of(samples, f.data.n_items, f.device, f.recipe.dtype)
        n_clients = len(samples.clients)
        weight_C = torch.from_numpy(alpha_C).to(f.device, f.recipe.dtype)
        work = Work({}, weight_C.new_empty(n_clients), touched.lengths)
        personal: list[tuple[Tensor, Tensor, Tensor]] = []
        if f.kept_UI is not None:
            work.kept_CI = weight_C.new_empty(n_clients, f.data.n_items)
        for kernel, chosen in self._chunks(touched.lengths, kernels):
            chunk = Chunk.of(f, touched, samples.clients, chosen, weight_C)
            loss_C, kept_CI = kernel.train(chunk)
            where = torch.from_numpy(chosen).to(f.device)
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
        if personal:
            c_P, i_P, rows_PW = (torch.cat(every) for every in zip(*personal, strict=True))
            work.personal = c_P, i_P, rows_PW
        return work

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
                ahead = lengths[start : min(end, start + (self.federation.recipe.chunk or MOST))]
                size, each = np.arange(1, len(ahead) + 1), kernel.bytes_of_client(ahead)
                work, padding = size * each, size * each - np.cumsum(each)
                fits = (work <= room) & (padding <= room / 4)
                stop = start + max(1, len(ahead) if fits.all() else int(fits.argmin()))
                yield kernel, by_length[start:stop]
                start = stop

    def _room(self, kernel: Kernel) -> float:
        device = self.federation.device
        if self.federation.recipe.chunk is not None:
            return float("inf")
        return torch.cuda.mem_get_info(device)[0] / 8 if device.type == "cuda" else kernel.cache

    @property
    def linear(self) -> bool:
        """Are scores linear in item rows that are the same to all clients, but for a personal row?"""
        method = self.federation.method
        of_fedmr = isinstance(method, FedMR) and self.federation.personal is None
        still = method.stands_still and self.federation.personal is None
        return LinearScores.fits(method) or ((of_fedmr or still) and scores_linearly(method))

    def prepared(self, sent: Parameters) -> Parameters:
        method = self.federation.method
        if self.linear and isinstance(method, FedMR):  # the views of the global model, which all clients share
            return {**sent, "views": method.views(sent).transpose(0, 1)}
        return sent

    def score_users(self, sent: Parameters, users: slice) -> Tensor:
        f, method, personal = self.federation, self.federation.method, self.federation.personal
        if not self.linear:

            def logits(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
                return method.logits({**sent, **private}, own_I)

            return self._of_each_user(logits, sent, users)
        table_IK = sent["views" if "views" in sent else "item_table"].flatten(1)
        theta_CD = f.private[WEIGHT][users, 0]
        q_CK = outer(self.weights_of_users(sent, users), theta_CD) if method.routes else theta_CD
        scores_CI = torch.addmm(f.private[BIAS][users], q_CK, table_IK.T)
        if personal is not None:
            scores_CI[:, : f.data.n_items] += theta_CD @ personal.initial_IW.T
            c_P, i_P, slot_P = personal.touched(users)
            change_PW = personal.pool[slot_P] - personal.initial_IW[i_P]
            scores_CI[c_P, i_P] += (change_PW * theta_CD[c_P]).sum(dim=1)
        return scores_CI

    def weights_of_users(self, sent: Parameters, users: slice) -> Tensor:
        f, method = self.federation, self.federation.method
        if not self.linear:

            def weights(private: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
                local = {**sent, **private}
                return method.weights(method.views(local), local, own_I)

            return self._of_each_user(weights, sent, users)
        histories = f.data.train.take(np.arange(users.start, users.stop))
        items, offsets = (torch.from_numpy(a).to(f.device) for a in (histories.items, histories.indptr[:-1]))
        summary_CK = F.embedding_bag(items, sent["views"].flatten(1), offsets, mode="mean")
        own = {n.removeprefix("router."): p[users] for n, p in f.private.items() if n.startswith("router.")}
        product_CH = times(summary_CK, own["hidden.weight"].mT)
        return choose(product_CH, own["hidden.bias"], own["output.weight"], own["output.bias"])[0]

    def numbers_of_change(self, private: Parameters) -> int:
        method = self.federation.method
        changes = {HIDDEN} if LinearScores.fits(method) and method.steps_are_plain else set()  # of rank one
        return super().numbers_of_change({n: p for n, p in private.items() if n not in changes})

    def bytes_to_score(self, n_items: int) -> float:
        f = self.federation
        size = f.recipe.dtype.itemsize
        if self.linear:
            width = 0 if f.personal is None else f.personal.initial_IW.shape[1]
            return 4 * (1 + width) * n_items * size
        n_views = len(f.views) if f.method.routes else 1
        return n_items * size * (n_views + 8) * f.method.client.backbone.item_width

    def _of_each_user(self, function: Callable[..., Tensor], sent: Parameters, users: slice) -> Tensor:
        """A function of a user's private parameters and 1 / n_u at its training items, vectorised over users."""
        f = self.federation
        n_items = f.method.n_rows(sent)
        who = torch.arange(users.start, users.stop, device=f.device)
        private = {**f.columns(sent, who), **{n: p[users] for n, p in f.private.items()}}
        if f.personal is not None:
            private[PERSONAL] = f.personal.dense(users, n_items)
        return torch.func.vmap(function)(private, f.own_shares(users, n_items))


def kernels_of(method: Method) -> list[type[Kernel]]:
    """The kernels that train a method's clients: those with gradients by hand that fit, each up to its `most_rows`, and
    the general one."""
    return [kind for kind in (Solved, LinearScores, Gram) if kind.fits(method)] + [Vmapped]


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
