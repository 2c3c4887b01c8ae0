"""The plain backend: one client at a time, nothing padded, nothing copied that a client does not see."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.client import Work
from fedlab_mm.methods.parts import PERSONAL, Parameters
from fedlab_mm.registry import register
from fedlab_mm.sequential.sequences import Windows
from fedlab_mm.threads import lap

CALLS = 300  # samples that take as long as the calls that every client needs, few samples or many
MOST_USERS = 1e6  # bytes that scoring a user is said to take, so that users are scored sixty-four at a time


class Backend:
    """Runs a federation's clients: given what was sent, their private state and their samples, what do they upload and
    keep? A subclass registers as "engine", of federations that predict clicks as "click engine".
    """

    def __init__(self, federation: Any):
        self.federation = federation

    def train(self, samples: Any, alpha_C: np.ndarray, sent: Parameters, intake: Intake) -> Work:
        """Let each client of the round do its local epochs and hand in what it uploads.

        Args:
            samples: of the round's clients, as the federation drew them; alpha_C: their weights in the aggregation.
        """
        raise NotImplementedError

    def numbers_of_change(self, private: Parameters) -> int:
        """How many numbers a client's new private parameters take until they are written."""
        return sum(p.numel() for p in private.values())


class Ranks(Backend):
    """A backend of clients that rank items."""

    def score_users(self, sent: Parameters, users: slice) -> Tensor:
        """Some clients' logits of every item that `sent` holds: [C, I]. Rows beyond the catalogue are new items, whose
        rows in a personal table are zero."""
        raise NotImplementedError

    def weights_of_users(self, sent: Parameters, users: slice) -> Tensor:
        """Some clients' w_u, [C, E]; asked for under methods with a router only."""
        raise NotImplementedError

    def prepared(self, sent: Parameters) -> Parameters:
        """What was sent, with what can be made of it once for all clients, for `score_users`."""
        return sent

    def bytes_to_score(self, n_items: int) -> float:
        """What scoring a user takes at a time."""
        raise NotImplementedError


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
        return MOST_USERS

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
