"""The plain backend: one client at a time, nothing padded, nothing copied that a client does not see."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.federation.backends.base import Ranks
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.client import Work
from fedlab_mm.methods.parts import PERSONAL, Parameters
from fedlab_mm.registry import register
from fedlab_mm.sequential.sequences import Windows
from fedlab_mm.threads import lap

CALLS = 300  # samples that take as long as the calls that every client needs, few samples or many
BYTES_A_USER = 1e6  # that scoring is said to take, so that users are scored sixty-four at a time


@register("click engine", "loop")
@register("engine", "loop")
class Loop(Ranks):
    """What a reader checks every other backend against."""

    def train(self, samples: Any, alpha_C: np.ndarray, sent: Parameters, intake: Intake) -> Work:
        every, f = [], self.federation
        for c, alpha in enumerate(alpha_C):  # line 5: for all clients u in S_t
            done = f.client_round(samples, c, sent)  # line 6: ClientUpdate
            intake.take(done.uploads, torch.tensor([alpha], dtype=f.recipe.dtype, device=f.device))
            done.uploads = None  # they are gone, and may be large
            every.append(done)
            lap(CALLS + int(samples.lengths[c]))
        return Work.of_each(every)

    def score_users(self, sent: Parameters, users: slice) -> Tensor:
        method = self.federation.method
        return torch.stack([method.logits(local, own_I) for local, own_I in self._locals(sent, users)])

    def weights_of_users(self, sent: Parameters, users: slice) -> Tensor:
        method = self.federation.method
        return torch.stack([method.weights(method.views(x), x, own_I) for x, own_I in self._locals(sent, users)])

    def bytes_to_score(self, n_items: int) -> float:
        return BYTES_A_USER

    def _locals(self, sent: Parameters, users: slice) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """What each of some users has and was sent, and 1 / n_u at its training items."""
        f = self.federation
        n_items = f.method.n_rows(sent)
        for u in range(users.start, users.stop):
            columns = {n: column_1I[0] for n, column_1I in f.columns(sent, torch.tensor([u], device=f.device)).items()}
            local = {**sent, **columns, **{n: p[u] for n, p in f.private.items()}}
            if f.personal is not None:
                local[PERSONAL] = f.personal.dense(slice(u, u + 1), n_items)[0]
            yield local, f.own_shares(slice(u, u + 1), n_items)[0]

    @torch.no_grad()
    def logits(self, windows: list[Windows]) -> list[Tensor]:
        """Logits [C, T] of each chunk of showings."""
        f, every = self.federation, []
        for chunk in windows:
            logits_CT = torch.zeros(chunk.real.shape, dtype=f.recipe.dtype)
            for c, user in enumerate(chunk.users):
                one = chunk.of(c).to(f.device)
                parameters = {**f.frozen, **f.shared, **{n: p[user] for n, p in f.private.items()}}
                logits = functional_call(f.model, parameters, (one,)).logits
                logits_CT[c, : len(logits)] = logits
            every.append(logits_CT)
        return every
