"""What every engine shares: state, client sampling, the round around the clients' work, saving and resuming."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples, sample
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.methods import Method
from fedlab_mm.records import Dataset, Recipe, RoundRecord, upload_bytes
from fedlab_mm.registry import lookup

LOSS_BOUND = 1e6  # a mean loss above this counts as diverged: the logits behind it mean nothing any more


@dataclass
class LocalWork:
    """What the clients of a round did: their new private parameters [C, …], their losses [C], how many rows each
    touched [C], and Σ_u α_u · contribution_u, [E, I, D]."""

    private: dict[str, Tensor]
    loss_C: Tensor
    n_rows_C: np.ndarray
    mixed_EID: Tensor


class Engine:
    """A federation in memory: the server's module, every client's private parameters, and `step`, one round.

    Attributes:
        method: the placement of fusion, with the shared parameters.
        private: name -> [U, …], row u is client u's own. A client not yet sampled has the common initial values.
        round: how many rounds are done.
    """

    def __init__(self, recipe: Recipe, data: Dataset):
        self.recipe, self.data = recipe, data
        self.method = build_method(recipe, data)
        self.private = {
            name: p.detach().expand(data.n_users, *p.shape).clone() for name, p in self.method.client.named_parameters()
        }
        self.optimizer = self.method.server_optimizer()
        rule = recipe.aggregation or self.method.client.backbone.aggregation
        self.aggregation = lookup("aggregation", rule)()
        self.round = 0
        self.last_clients = np.zeros(0, dtype=np.int64)

    # What an engine must provide.

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, views_EID: Tensor) -> LocalWork:
        """Let each client of the round do its local epochs; `alpha_C` are the weights of the aggregation."""
        raise NotImplementedError

    def scores(self) -> Tensor:
        """Every client's logit of every item, from the current global model and its own private state: [U, I]."""
        raise NotImplementedError

    def router_weights(self) -> Tensor | None:
        """Every client's w_u, [U, E]; None under a method without a router."""
        raise NotImplementedError

    # What all engines share.

    def step(self) -> RoundRecord:
        """One communication round.

        Raises:
            DivergedError: a loss, a private parameter or a shared one is no longer finite. The state stays as it was.
        """
        start = time.perf_counter()
        t = self.round + 1
        clients = self.sample_clients(t)
        samples = sample(self.data.train, self.data.n_items, clients, self.recipe.negatives, self.recipe.seed, t)
        alpha_C = self.aggregation.matrix(samples.lengths)[0]
        views_EID = self.method.broadcast()
        work = self.train_clients(samples, alpha_C, views_EID.detach())

        sound_C = torch.isfinite(work.loss_C) & (work.loss_C < LOSS_BOUND)
        for parameter in work.private.values():
            sound_C &= torch.isfinite(parameter.flatten(1).sum(dim=1))
        if not sound_C.all():
            raise DivergedError(t, int(clients[int((~sound_C).nonzero()[0])]))
        self._update_server(views_EID, work.mixed_EID, t)
        users = torch.from_numpy(clients)
        for name, parameter in work.private.items():
            self.private[name][users] = parameter
        self.round, self.last_clients = t, clients

        width = views_EID.shape[0] * views_EID.shape[2]
        return RoundRecord(
            round=t,
            clients=clients,
            loss=float(alpha_C @ work.loss_C.double().numpy()),
            metrics={},
            upload_bytes=sum(upload_bytes(int(n), int(n) * width) for n in work.n_rows_C),
            download_bytes=4 * views_EID.numel() * len(clients),
            seconds=time.perf_counter() - start,
            model=self,
        )

    def _update_server(self, views_EID: Tensor, mixed_EID: Tensor, t: int) -> None:
        before = copy.deepcopy(self.method.shared.state_dict())
        moments = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self.method.server_update(views_EID, mixed_EID, self.optimizer)
        if all(torch.isfinite(p.sum()) for p in self.method.shared.parameters()):
            return
        self.method.shared.load_state_dict(before)
        if self.optimizer and moments:
            self.optimizer.load_state_dict(moments)
        raise DivergedError(t, None)

    def sample_clients(self, t: int) -> np.ndarray:
        """The clients of round t, sorted. None of the last round's take part again where the others are enough: so a
        server cannot follow a client from one round to the next (FedMR, section 4.5)."""
        n = self.data.n_users
        n_wanted = max(1, round(self.recipe.clients * n))
        if n_wanted == n:
            return np.arange(n)
        rested = np.setdiff1d(np.arange(n), self.last_clients)
        pool = rested if len(rested) >= n_wanted else np.arange(n)
        return np.sort(np.random.default_rng([self.recipe.seed, t]).choice(pool, n_wanted, replace=False))

    def state(self) -> dict[str, Tensor]:
        """All that the next round depends on, by name, as copies."""
        shared = {f"shared.{k}": v.detach().clone() for k, v in self.method.shared.state_dict().items()}
        private = {f"private.{k}": v.clone() for k, v in self.private.items()}
        moments: dict[str, Tensor] = {}
        if self.optimizer:
            for i, entry in self.optimizer.state_dict()["state"].items():
                moments |= {f"server.{i}.{k}": v.clone() for k, v in entry.items() if torch.is_tensor(v)}
        done = {"round": torch.tensor(self.round), "last_clients": torch.from_numpy(self.last_clients.copy())}
        return shared | private | moments | done

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            FedlabError: the state is of another recipe or dataset: a tensor is missing or has another shape.
        """
        own = self.state()
        for name, value in own.items():
            if name.startswith(("shared.", "private.")) and (name not in state or state[name].shape != value.shape):
                raise FedlabError(f"the saved state does not fit this recipe and data: {name} differs")
        self.method.shared.load_state_dict(
            {k.removeprefix("shared."): v for k, v in state.items() if k.startswith("shared.")}
        )
        for name, parameter in self.private.items():
            parameter.copy_(state[f"private.{name}"])
        if self.optimizer:
            template = self.optimizer.state_dict()
            template["state"] = {}
            for name, value in state.items():
                if name.startswith("server."):
                    _, i, key = name.split(".")
                    template["state"].setdefault(int(i), {})[key] = value.clone()
            self.optimizer.load_state_dict(template)
        self.round = int(state["round"])
        self.last_clients = state["last_clients"].numpy().copy()


def build_method(recipe: Recipe, data: Dataset) -> Method:
    """The recipe's method for this data, its initial values drawn from the recipe's seed."""
    features = {m: f.to(recipe.dtype) for m, f in data.features.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = lookup("method", recipe.method)(recipe, data.n_items, features)
    method.shared.to(recipe.dtype)
    method.client.to(recipe.dtype)
    return method
