"""What a federation is, whatever its task: what `round.py` asks of it, who takes part, saving and resuming."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.aggregation import Aggregation
from fedlab_mm.errors import FedlabError
from fedlab_mm.federation.channel import Channel
from fedlab_mm.federation.client import Done, Work
from fedlab_mm.federation.pace import pace
from fedlab_mm.federation.round import play
from fedlab_mm.federation.selection import n_clients, select_clients
from fedlab_mm.federation.state import Storage, device_of
from fedlab_mm.methods.parts import Memory, Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import RoundRecord
from fedlab_mm.registry import lookup


class Federation(ABC):
    """A federation in memory: what the server holds, every client's private state, and `step`, one round.

    Attributes:
        private: name -> [U, …]; row u is client u's own. A client not yet sampled has the common initial values.
        backend: runs the clients; channel: what happens to their uploads; memory: what the server remembers of them.
        round: how many rounds are done; last_mixed: what the last one mixed, noise included.
    """

    task: ClassVar[str]
    engines: ClassVar[str]  # the family of its backends
    private: dict[str, Tensor]
    memory: Memory
    storage: Storage

    def __init__(self, recipe: Recipe, data: Any):
        self.recipe, self.data = recipe, data
        recipe.refuse_foreign(self.task)
        self.device = device_of(recipe.device)
        rule = self.build()
        self.aggregation: Aggregation = lookup("aggregation", recipe.aggregation or rule)()
        self.channel = Channel.of(recipe, self.task, recipe.aggregation or rule)
        if type(self.memory).take is not Memory.take:
            self.channel.refuse_a_memory(recipe)
            self.channel.observers.append(self.memory.take)
        self.backend = lookup(self.engines, recipe.engine)(self)
        self.round = 0
        self.last_mixed: Parameters = {}
        self.last_clients = np.zeros(0, dtype=np.int64)
        self.begin()

    def step(self) -> RoundRecord:
        """One communication round.

        Raises:
            DivergedError: a loss, a private parameter or a shared one is no longer finite. The state stays as it was.
        """
        with pace(self, "round"):
            return play(self)

    # What a task's federation says.

    @abstractmethod
    def build(self) -> str:
        """Make the model; the name of its own rule of aggregation."""

    @abstractmethod
    def begin(self) -> None:
        """Give every client its private state."""

    @abstractmethod
    def samples_of(self, clients: np.ndarray, t: int) -> Any:
        """What the clients train on in round t: an object with `clients`, `lengths` and what `client_round` reads."""

    @abstractmethod
    def broadcast(self) -> dict[str, Tensor]:
        """What every client is sent, by name, with the graph that gradients are pulled back through."""

    @abstractmethod
    def nothing(self, sent: Parameters) -> dict[str, Tensor]:
        """Zeros for each part that is uploaded."""

    @abstractmethod
    def client_round(self, samples: Any, c: int, sent: Parameters) -> Done:
        """Line 6: the round of the c-th client, one client alone."""

    @abstractmethod
    def update_server(self, sent: Parameters, mixed: Parameters, work: Work, alpha_C: np.ndarray, t: int) -> None:
        """Move what the server holds.

        Raises:
            DivergedError: it would no longer be finite; nothing has moved.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The state that lies in tensors of fixed shape, by name, live: a loaded state is copied into them."""

    def other_state(self) -> dict[str, Tensor]:
        """What else the next round depends on, as copies on the CPU."""
        return {}

    def load_other_state(self, state: Parameters) -> None:
        """The inverse of `other_state`."""
        return

    def make_room(self, work: Work) -> None:
        """Complain while nothing has moved, if there is no room for what clients keep."""
        return

    @abstractmethod
    def keep(self, clients: np.ndarray, work: Work) -> None:
        """Write what the clients keep into their state."""

    @abstractmethod
    def traffic(self, sent: Parameters, n_rows_C: np.ndarray) -> tuple[int, int]:
        """Bytes up and down, of clients that send so many rows of items."""

    # What can be asked of it; what its task does not have is refused by name.

    does: ClassVar[str]  # in words

    @property
    def views(self) -> list[str]:
        """The names of the views that routers choose among; none without routers."""
        return []

    def groups_of_users(self) -> np.ndarray | None:
        """Each user's group, [U], or in each block [U, L]; None under a method without groups."""
        return self.memory.groups_of_users()

    def router_weights(self) -> Tensor | None:
        """Every client's w_u, [U, E]; None under a method without a router."""
        return None

    def predict(self, split: str) -> pd.DataFrame:
        """What is predicted of a split's showings."""
        raise self._lacks("predicts no clicks: see run.recommend and run.scores_UI")

    def scores(self) -> Tensor:
        """Every client's logit of every item, on the CPU: [U, I]."""
        raise self._lacks("ranks nothing: see run.predictions")

    def score_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The same, a block of users at a time."""
        raise self._lacks("ranks nothing: see run.predictions")

    def global_scores(self) -> Tensor:
        """The scores by the current global model, whatever clients keep: [U, I]."""
        raise self._lacks("ranks nothing: see run.predictions")

    def scores_of_new(self, features: Parameters) -> Tensor:
        """Every client's logit of items outside the catalogue: [U, J]."""
        raise self._lacks("ranks nothing: see run.predictions")

    def signals(self, user: int | None = None) -> dict[str, Tensor]:
        """The catalogue's signals in the space that they are mapped to, signal -> [I, D]."""
        raise self._lacks("ranks nothing: see run.predictions")

    def _lacks(self, what: str) -> FedlabError:
        return FedlabError(f"'{self.recipe.label}' {self.does} and {what}")

    # Who takes part, and how much each counts.

    @property
    def n_wanted(self) -> int:
        return n_clients(self.recipe, self.data.n_users)

    def sample_clients(self, t: int) -> np.ndarray:
        return select_clients(self.recipe, self.data.n_users, t, self.last_clients)

    def weights_of(self, samples: Any) -> np.ndarray:
        """α_u of the round's clients: what the rule says of them."""
        if not len(samples.clients):
            return np.zeros(0)
        alpha_C = self.aggregation.matrix(samples.lengths)[0]
        varies = lookup("sampling", self.recipe.sampling).number_varies and self.recipe.clients < 1
        return alpha_C * len(samples.clients) / self.n_wanted if varies else alpha_C

    def greatest_weight(self, alpha_C: np.ndarray) -> float:
        """The weight that sensitivity follows from, also in a round that nobody came to."""
        return float(alpha_C.max()) if len(alpha_C) else 1 / self.n_wanted

    # Saving and resuming.

    def state(self) -> dict[str, Tensor]:
        """All that the next round depends on, by name, as copies on the CPU."""
        lying = {name: self.storage.copy(value) for name, value in self.tensors().items()}
        done = {"round": torch.tensor(self.round), "last_clients": torch.from_numpy(self.last_clients.copy())}
        return lying | self.memory.state() | self.other_state() | done

    def load_state(self, state: Parameters) -> None:
        """The inverse of `state`.

        Raises:
            FedlabError: the state is of another recipe or other data: a tensor is missing or has another shape.
        """
        for name, value in (self.tensors() | self.memory.state()).items():
            if name not in state or state[name].shape != value.shape:
                raise FedlabError(f"the saved state does not fit this recipe and data: {name} differs")
        self.load_other_state(state)
        for name, value in self.tensors().items():
            value.copy_(state[name])
        self.memory.load_state(state)
        self.round = int(state["round"])
        self.last_clients = state["last_clients"].numpy().copy()
