"""What every engine shares: state, client sampling, the round around the clients' work, saving and resuming."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples, sample
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.methods import Method
from fedlab_mm.methods.base import PERSONAL
from fedlab_mm.records import Dataset, Recipe, RoundRecord
from fedlab_mm.registry import lookup

LOSS_BOUND = 1e6  # a mean loss above this counts as diverged: the logits behind it mean nothing any more


@dataclass
class LocalWork:
    """What the clients of a round did.

    Attributes:
        private: their new private parameters, [C, …].
        loss_C: their losses; n_rows_C: how many items each touched.
        mixed: for each part that is uploaded, Σ_u α_u · (value_u − value) or Σ_u α_u · ∇_u.
        kept_CI: every item's score by the items that each client keeps; None under a backbone that keeps none.
    """

    private: dict[str, Tensor]
    loss_C: Tensor
    n_rows_C: np.ndarray
    mixed: dict[str, Tensor]
    kept_CI: Tensor | None = None


class Engine:
    """A federation in memory: the server's module, every client's private parameters, and `step`, one round.

    Attributes:
        method: the placement of fusion, with the shared parameters.
        private: name -> [U, …], row u is client u's own. A client not yet sampled has the common initial values.
        kept_UI: under a backbone that keeps its items, all that a client's own copy is ever read for: its scores. (The
            copy itself is overwritten by the server's when the client next takes part.)
        round: how many rounds are done.
    """

    def __init__(self, recipe: Recipe, data: Dataset):
        self.recipe, self.data = recipe, data
        self.method = build_method(recipe, data)
        self.private = {
            name: p.detach().expand(data.n_users, *p.shape).clone()
            for name, p in self.method.client.named_parameters()
            if name in self.method.private
        }
        self.optimizer = self.method.server_optimizer()
        rule = recipe.aggregation or self.method.client.backbone.aggregation
        self.aggregation = lookup("aggregation", rule)()
        self.round = 0
        self.last_clients = np.zeros(0, dtype=np.int64)
        self.kept_UI = self.global_scores() if self.method.client.backbone.keeps_items else None

    # What an engine must provide.

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        """Let each client of the round do its local epochs; `alpha_C` are the weights of the aggregation."""
        raise NotImplementedError

    def score_items(self, sent: Mapping[str, Tensor], private: Mapping[str, Tensor]) -> Tensor:
        """Every client's logit of every item that `sent` holds: [U, I]. Rows beyond the catalogue are new items."""
        raise NotImplementedError

    def router_weights(self) -> Tensor | None:
        """Every client's w_u, [U, E]; None under a method without a router."""
        raise NotImplementedError

    # What all engines share.

    @property
    def views(self) -> list[str]:
        """The names of the views that routers choose among."""
        return list(self.method.shared.get_submodule("fusion.bank").views) if self.method.routes else []  # type: ignore[arg-type]

    def scores(self) -> Tensor:
        """Every client's logit of every item: from the current global model and its own private state, or from the
        items that it keeps: [U, I]."""
        return self.global_scores() if self.kept_UI is None else self.kept_UI

    @torch.no_grad()
    def global_scores(self) -> Tensor:
        return self.score_items(self.method.broadcast(), self.private)

    @torch.no_grad()
    def scores_of_new(self, features: Mapping[str, Tensor]) -> Tensor:
        """Every client's logit of items outside the catalogue, from their features alone, by the current global model:
        [U, J]. Their rows in a personal table are zero."""
        new = self.method.for_new_items(features)
        sent = self.method.broadcast()
        n_new = len(next(iter(new.values())))
        private = dict(self.private)
        if PERSONAL in private:
            private[PERSONAL] = torch.nn.functional.pad(private[PERSONAL], (0, 0, 0, n_new))
        both = {n: torch.cat([v, new[n]]) if self.method.parts[n].by_item else v for n, v in sent.items()}
        return self.score_items(both, private)[:, self.data.n_items :]

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
        sent = self.method.broadcast()
        work = self.train_clients(samples, alpha_C, {n: p.detach() for n, p in sent.items()})

        sound_C = torch.isfinite(work.loss_C) & (work.loss_C.abs() < LOSS_BOUND)
        for parameter in work.private.values():
            sound_C &= torch.isfinite(parameter.flatten(1).sum(dim=1))
        if not sound_C.all():
            raise DivergedError(t, int(clients[int((~sound_C).nonzero()[0])]))
        n_bytes = traffic(self.method, sent)
        self._update_server(sent, work.mixed, t)
        users = torch.from_numpy(clients)
        for name, parameter in work.private.items():
            self.private[name][users] = parameter
        if self.kept_UI is not None:
            assert work.kept_CI is not None
            self.kept_UI = self.kept_UI.index_copy(0, users, work.kept_CI)
        self.round, self.last_clients = t, clients
        return RoundRecord(
            round=t,
            clients=clients,
            loss=float(alpha_C @ work.loss_C.double().numpy()),
            metrics={},
            upload_bytes=sum(n_bytes.upload(int(n)) for n in work.n_rows_C),
            download_bytes=n_bytes.download * len(clients),
            seconds=time.perf_counter() - start,
            model=self,
        )

    def _update_server(self, sent: Mapping[str, Tensor], mixed: Mapping[str, Tensor], t: int) -> None:
        before = copy.deepcopy(self.method.shared.state_dict())
        moments = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self.method.server_update(sent, mixed, self.optimizer)
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
        if self.kept_UI is not None:
            private["private.kept scores"] = self.kept_UI.clone()
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
        if self.kept_UI is not None:
            self.kept_UI = state["private.kept scores"].clone()
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


@dataclass(frozen=True)
class Traffic:
    """What a client moves in a round, in numbers: `download` in bytes; `upload(rows)` in bytes for so many items.

    Parts that stand still for good, the features under FedMR, are sent once and not counted here.
    """

    download: int
    per_row: int
    whole: int

    def upload(self, n_rows: int) -> int:
        rows = 4 * n_rows if self.per_row else 0  # the rows' numbers
        return 4 * (self.per_row * n_rows + self.whole) + rows + 8


def traffic(method: Method, sent: Mapping[str, Tensor]) -> Traffic:
    download = per_row = whole = 0
    for name, part in method.parts.items():
        numbers = sent[name].numel()
        if part.moves or part.upload:
            download += 4 * numbers
        if part.upload and sends_rows(method, name):
            per_row += numbers // method.n_items
        elif part.upload:
            whole += numbers
    return Traffic(download, per_row, whole)


def sends_rows(method: Method, name: str) -> bool:
    """Does a client upload only the rows that it touched? Else all of the part."""
    part = method.parts[name]
    if part.upload == "value" and method.client.backbone.keeps_items:
        return False
    return part.by_item and part.upload is not None


def build_method(recipe: Recipe, data: Dataset) -> Method:
    """The recipe's method for this data, its initial values drawn from the recipe's seed."""
    features = {m: f.to(recipe.dtype) for m, f in data.features.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = lookup("method", recipe.method)(recipe, data.n_items, features)
    method.shared.to(recipe.dtype)
    method.client.to(recipe.dtype)
    return method
