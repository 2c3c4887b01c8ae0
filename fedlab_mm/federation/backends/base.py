"""What a backend is: it runs a federation's clients."""

from typing import Any

import numpy as np
from torch import Tensor

from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.client import Work
from fedlab_mm.methods.parts import Parameters


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
