"""What every engine shares: state, client sampling, the round around the clients' work, scoring, saving, resuming."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples, sample
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.methods import Method
from fedlab_mm.methods.base import PERSONAL
from fedlab_mm.privacy import Guard, check
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset, RoundRecord
from fedlab_mm.registry import lookup
from fedlab_mm.simulation.groups import Groups, Uploads, groups_of
from fedlab_mm.simulation.state import PersonalRows, RankOne, Storage, device_of
from fedlab_mm.threads import paced

LOSS_BOUND = 1e6  # a mean loss above this counts as diverged: the logits behind it mean nothing any more
BLOCK_BYTES = 64e6  # of scores, and of what it takes to make them, that are held at once


@dataclass
class LocalWork:
    """What the clients of a round did. Nothing of it is in the engine's state yet: a round that diverges leaves none.

    Attributes:
        private: their new private parameters, [C, …], or how they change.
        loss_C: their losses; n_rows_C: how many items each touched.
        mixed: for each part that is uploaded, Σ_u α_u · (value_u − value) or Σ_u α_u · ∇_u.
        personal: where there is a personal table: the client's position [P], item [P] and new row [P, W] of every pair.
        kept_CI: every item's score by the items that each client keeps; None under a backbone that keeps none.
        pairs: where the server groups clients, what each uploaded of its items: user [P], item [P], change [P, W], and
            False where a pair is padding.
        shown_CK: there, the private parameters that each showed, flat.
    """

    private: dict[str, Tensor | RankOne]
    loss_C: Tensor
    n_rows_C: np.ndarray
    mixed: dict[str, Tensor]
    personal: tuple[Tensor, Tensor, Tensor] | None = None
    kept_CI: Tensor | None = None
    pairs: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    shown_CK: Tensor | None = None

    def sound_C(self) -> Tensor:
        """Which clients' results are finite."""
        sound_C = torch.isfinite(self.loss_C) & (self.loss_C.abs() < LOSS_BOUND)
        for new in self.private.values():
            size_C = (
                new.bound_C() if isinstance(new, RankOne) else new[:, None].flatten(1).sum(dim=1)
            )  # of shape () too
            sound_C = sound_C & torch.isfinite(size_C).to(sound_C.device)
        if self.personal is not None:
            c_P, _, rows_PW = self.personal
            sound_C[c_P[~torch.isfinite(rows_PW.sum(dim=1))].to(sound_C.device)] = False
        return sound_C


def select_clients(recipe: Recipe, n_users: int, t: int, last_clients: np.ndarray) -> np.ndarray:
    """The clients of round t, sorted. Under "rested", the default, none of the last round's take part again where the
    others are enough: so a server cannot follow a client from one round to the next (FedMR, section 4.5)."""
    n, n_wanted, rng = n_users, n_clients(recipe, n_users), np.random.default_rng([recipe.seed, t])
    if n_wanted == n:
        return np.arange(n)
    if recipe.sampling == "poisson":
        return np.flatnonzero(rng.random(n) < n_wanted / n)
    if recipe.sampling == "fixed":
        return np.sort(rng.choice(n, n_wanted, replace=False))
    rested = np.setdiff1d(np.arange(n), last_clients)
    pool = rested if len(rested) >= n_wanted else np.arange(n)
    return np.sort(rng.choice(pool, n_wanted, replace=False))


def n_clients(recipe: Recipe, n_users: int) -> int:
    """How many clients a round has, or is expected to have."""
    return max(1, round(recipe.clients * n_users))


def pace(engine: Any, work: str) -> AbstractContextManager[None]:
    """The choice of threads for an engine's rounds, or its evaluations: one for all that cost the same."""
    if engine.device.type != "cpu":
        return nullcontext()
    data = engine.data
    return paced(work, type(engine).__name__, data.n_users, data.n_items, len(data.interactions), _alike(engine.recipe))


@cache
def _alike(recipe: Recipe) -> Recipe:
    """One for all recipes whose rounds cost the same."""
    return recipe.but(seed=0, lr=None, shared_lr=None, weight_decay=0.0, rounds=1)


class Engine:
    """A federation in memory: the server's module, every client's private parameters, and `step`, one round.

    Attributes:
        method: the placement of fusion, with the shared parameters.
        private: name -> [U, …], row u is client u's own. A client not yet sampled has the common initial values.
        groups: under a method that groups clients, the server's memory of them.
        personal: under a backbone with a personal table, every client's rows.
        kept_UI: under a backbone that keeps its items, all that a client's own copy is ever read for: its scores. (The
            copy itself is overwritten by the server's when the client next takes part.)
        round: how many rounds are done; last_mixed: what the last one mixed, noise included.

    Raises:
        FedlabError: the device is not there, or there is no room for so many clients.
    """

    def __init__(self, recipe: Recipe, data: Dataset):
        self.recipe, self.data = recipe, data
        recipe.refuse_foreign("ranking")
        self.device = device_of(recipe.device)
        self.method = build_method(recipe, data)
        self.method.shared.to(self.device)
        self.method.client.to(self.device)
        initial = {n: p.detach() for n, p in self.method.client.named_parameters() if n in self.method.private}
        self.storage = Storage(self.device)
        keeps = self.method.client.backbone.keeps_items
        self.storage.foresee(
            self._needs(initial, keeps),
            f"fewer users, a smaller dim (now {recipe.dim}), fewer operators or single precision would do",
        )
        personal = initial.pop(PERSONAL, None)
        self.private = {name: self.storage.rows(p, data.n_users) for name, p in initial.items()}
        self.personal = None if personal is None else PersonalRows(personal, data.n_users, self.storage)
        self.optimizer = self.method.server_optimizer()
        self.groups: Groups | None = groups_of(self.method, data.n_users, self.n_wanted)
        rule = recipe.aggregation or self.method.client.backbone.aggregation
        check(recipe, rule)
        self.aggregation = lookup("aggregation", rule)()
        self.guard = Guard.of(recipe)
        self.round = 0
        self.last_mixed: Mapping[str, Tensor] = {}
        self.last_clients = np.zeros(0, dtype=np.int64)
        self.kept_UI: Tensor | None = None
        if keeps:
            kept_UI = self.storage.empty((data.n_users, data.n_items), recipe.dtype)
            for users, scores_CI in self.score_blocks():
                kept_UI[users] = scores_CI
            self.kept_UI = kept_UI

    # What an engine must provide.

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        """Let each client of the round do its local epochs; `alpha_C` are the weights of the aggregation."""
        raise NotImplementedError

    def score_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        """Some clients' logits of every item that `sent` holds: [C, I]. Rows beyond the catalogue are new items, whose
        rows in a personal table are zero."""
        raise NotImplementedError

    def weights_of_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        """Some clients' w_u, [C, E]; asked for under methods with a router only."""
        raise NotImplementedError

    def prepared(self, sent: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What was sent, with what can be made of it once for all clients, for `score_users`."""
        return sent

    def bytes_to_score(self, n_items: int) -> float:
        """What scoring a user takes at a time."""
        raise NotImplementedError

    # What all engines share.

    @property
    def views(self) -> list[str]:
        """The names of the views that routers choose among."""
        return list(self.method.shared.get_submodule("fusion.bank").views) if self.method.routes else []  # type: ignore[arg-type]

    def score_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Every client's logit of every item, a block of users at a time: from the current global model and its own
        private state, or from the items that it keeps."""
        if self.kept_UI is None:
            yield from self._global_blocks(self._sent())
        else:
            for users in self._blocks(self.data.n_items):
                yield users, self.kept_UI[users]

    def scores(self) -> Tensor:
        """`score_blocks` in one piece, on the CPU: [U, I]."""
        return torch.cat([scores_CI.cpu() for _, scores_CI in self.score_blocks()])

    def global_scores(self) -> Tensor:
        """The scores by the current global model, whatever clients keep: [U, I]."""
        return torch.cat([scores_CI.cpu() for _, scores_CI in self._global_blocks(self._sent())])

    @torch.no_grad()
    def scores_of_new(self, features: Mapping[str, Tensor]) -> Tensor:
        """Every client's logit of items outside the catalogue, from their features alone, by the current global model:
        [U, J]. Their rows in a personal table are zero."""
        new = self.method.for_new_items(features)
        both = {n: torch.cat([v, new[n]]) if self.method.parts[n].by_item else v for n, v in self._sent().items()}
        return torch.cat([scores_CJ[:, self.data.n_items :].cpu() for _, scores_CJ in self._global_blocks(both)])

    def router_weights(self) -> Tensor | None:
        """Every client's w_u, [U, E]; None under a method without a router."""
        if not self.method.routes:
            return None
        with torch.no_grad():
            sent = self.prepared(self._sent())
            weights = [self.weights_of_users(sent, users).cpu() for users in self._blocks(self.data.n_items)]
        return torch.cat(weights)

    def signals(self, user: int | None = None) -> dict[str, Tensor]:
        """The catalogue's signals in the space that they are mapped to, signal -> [I, D]; with a user, as its personal
        table has them."""
        personal = None
        if user is not None and self.personal is not None:
            personal = self.personal.dense(slice(user, user + 1))[0]
        with torch.no_grad():
            return {name: z_ID.cpu() for name, z_ID in self.method.signals_in_space(personal).items()}

    def _sent(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.method.broadcast()

    def _global_blocks(self, sent: Mapping[str, Tensor]) -> Iterator[tuple[slice, Tensor]]:
        n_items = self.method.n_rows(sent)
        with torch.no_grad():
            sent = self.prepared(sent)
        for users in self._blocks(n_items):
            with torch.no_grad():
                scores_CI = self.score_users(sent, users)
            yield users, scores_CI

    def _blocks(self, n_items: int) -> list[slice]:
        size = max(1, int(BLOCK_BYTES / self.bytes_to_score(n_items)))
        return [slice(start, min(start + size, self.data.n_users)) for start in range(0, self.data.n_users, size)]

    def _own(self, users: slice, n_items: int) -> Tensor:
        """1 / n_u at the users' training items, [C, I]."""
        histories = self.data.train.take(np.arange(users.start, users.stop))
        own_CI = torch.zeros(len(histories), n_items, dtype=self.recipe.dtype)
        own_CI[histories.users, histories.items] = torch.from_numpy(1 / histories.lengths[histories.users]).to(own_CI)
        return own_CI.to(self.device)

    def _fresh_numbers(self, initial: Mapping[str, Tensor]) -> int:
        """How many new private numbers a round holds beside the old ones."""
        return self.n_wanted * sum(p.numel() for n, p in initial.items() if n != PERSONAL)

    def _needs(self, initial: Mapping[str, Tensor], keeps: bool) -> dict[str, int]:
        n_users, n_items, size = self.data.n_users, self.data.n_items, self.recipe.dtype.itemsize
        numbers = sum(p.numel() for n, p in initial.items() if n != PERSONAL)
        needs = {f"the private parameters of {n_users:,} clients": n_users * numbers * size}
        needs["their new values in a round"] = self._fresh_numbers(initial) * size
        if PERSONAL in initial:
            draws = 1 + self.recipe.rounds * self.recipe.negatives  # negatives are new in every round
            rows = min(draws * len(self.data.train.items), n_users * n_items) * initial[PERSONAL].shape[1] * size
            needs["the rows that they will have touched"] = n_users * n_items * torch.int32.itemsize + rows
        if self.method.shown:
            rows = self.n_wanted * (1 + self.recipe.negatives) * len(self.data.train.items) // n_users
            needs["the rows that a round's clients upload"] = rows * self.method.client.backbone.item_width * size
        if keeps:
            needs["the scores by the items that they keep"] = 2 * n_users * n_items * size
        return needs

    def step(self) -> RoundRecord:
        """One communication round.

        Raises:
            DivergedError: a loss, a private parameter or a shared one is no longer finite. The state stays as it was.
        """
        with pace(self, "round"):
            return self._step()

    def _step(self) -> RoundRecord:
        start = time.perf_counter()
        t = self.round + 1
        clients = self.sample_clients(t)
        by = None if self.recipe.negatives_by == "uniform" else self.data.popularity_I + 1
        per, seed = self.recipe.negatives, self.recipe.seed
        samples = sample(self.data.train, self.data.n_items, clients, per, seed, t, by)
        alpha_C = self.weights_of(samples)
        sent = self.method.broadcast()
        if len(clients):
            work = self.train_clients(samples, alpha_C, {n: p.detach() for n, p in sent.items()})
        else:  # a Poisson sample may be empty; the server's noise is added all the same
            nothing = {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}
            work = LocalWork({}, torch.zeros(0), np.zeros(0, dtype=np.int64), nothing)

        sound_C = work.sound_C()
        if not sound_C.all():
            raise DivergedError(t, int(clients[int((~sound_C).nonzero()[0])]))
        n_bytes = traffic(self.method, sent)
        if self.personal is not None and work.personal is not None:
            self.personal.reserve(len(work.personal[0]))  # no room: said while nothing has moved
        loss = float(alpha_C @ work.loss_C.double().cpu().numpy())
        self.guard.add_server_noise(work.mixed, self.greatest_weight(alpha_C), self.recipe, t)
        self.last_mixed = work.mixed
        table_IW = sent["item_table"].detach().clone() if self.groups is not None else None
        self._update_server(sent, work.mixed, t)
        self._take(clients, work)
        if self.groups is not None and table_IW is not None and work.pairs is not None and work.shown_CK is not None:
            user_P, item_P, change_PW, there_P = work.pairs
            pairs = user_P[there_P], item_P[there_P], change_PW[there_P]
            uploads = Uploads(clients, samples.lengths, *pairs, work.shown_CK)
            self.groups.update(uploads, table_IW, self.aggregation)
        self.round, self.last_clients = t, clients
        return RoundRecord(
            round=t,
            clients=clients,
            loss=loss,
            metrics={},
            upload_bytes=sum(n_bytes.upload(int(n)) for n in work.n_rows_C),
            download_bytes=n_bytes.download * len(clients),
            seconds=time.perf_counter() - start,
            model=self,
        )

    def _take(self, clients: np.ndarray, work: LocalWork) -> None:
        """Write what the clients did into their state."""
        users = torch.from_numpy(clients).to(self.device)
        everyone = len(clients) == self.data.n_users
        for name, new in work.private.items():
            if isinstance(new, RankOne) and everyone:
                new.apply(self.private[name])
            elif isinstance(new, RankOne):
                self.private[name][users] = new.apply(self.private[name][users])
            else:
                self.private[name][users] = new
        if self.personal is not None and work.personal is not None:
            c_P, i_P, rows_PW = work.personal
            self.personal.write(users[c_P], i_P, rows_PW)
        if self.kept_UI is not None and work.kept_CI is not None:
            self.kept_UI[users] = work.kept_CI

    def _update_server(self, sent: Mapping[str, Tensor], mixed: Mapping[str, Tensor], t: int) -> None:
        before = {n: p.clone() for n, p in self.method.shared.state_dict().items()}
        moments = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self.method.server_update(sent, mixed, self.optimizer)
        if all(torch.isfinite(p.sum()) for p in self.method.shared.parameters()):
            return
        self.method.shared.load_state_dict(before)
        if self.optimizer and moments:
            self.optimizer.load_state_dict(moments)
        raise DivergedError(t, None)

    def weights_of(self, samples: Samples) -> np.ndarray:
        """α_u of the round's clients: what the rule says of them; under Poisson sampling one over the expected number
        of clients, for a divisor that counted them would itself tell who is there."""
        if self.recipe.sampling == "poisson" and self.recipe.clients < 1:
            weights = self.aggregation.matrix(samples.lengths)[0] if len(samples.clients) else np.zeros(0)
            return weights * len(samples.clients) / self.n_wanted
        return self.aggregation.matrix(samples.lengths)[0]

    def greatest_weight(self, alpha_C: np.ndarray) -> np.ndarray:
        """The weights that sensitivity follows from, also in a round that nobody came to."""
        return alpha_C if len(alpha_C) else np.array([1 / self.n_wanted])

    @property
    def n_wanted(self) -> int:
        return n_clients(self.recipe, self.data.n_users)

    def sample_clients(self, t: int) -> np.ndarray:
        return select_clients(self.recipe, self.data.n_users, t, self.last_clients)

    def groups_of_users(self) -> np.ndarray | None:
        """Each user's group, [U]; None under a method without groups."""
        return None if self.groups is None else self.groups.group_U.copy()

    def predict(self, split: str) -> pd.DataFrame:
        raise FedlabError("this model ranks items; of clicks it knows nothing")

    def state(self) -> dict[str, Tensor]:
        """All that the next round depends on, by name, as copies on the CPU."""
        shared = {f"shared.{k}": v.detach().cpu().clone() for k, v in self.method.shared.state_dict().items()}
        private = {f"private.{k}": self.storage.copy(v) for k, v in self.private.items()}
        if self.personal is not None:
            private |= {f"{PERSONAL}.{k}": v.cpu() for k, v in self.personal.state().items()}
        if self.kept_UI is not None:
            private["private.kept scores"] = self.storage.copy(self.kept_UI)
        moments: dict[str, Tensor] = {}
        if self.optimizer:
            for i, entry in self.optimizer.state_dict()["state"].items():
                moments |= {f"server.{i}.{k}": v.cpu().clone() for k, v in entry.items() if torch.is_tensor(v)}
        if self.groups is not None:
            private |= self.groups.state()
        done = {"round": torch.tensor(self.round), "last_clients": torch.from_numpy(self.last_clients.copy())}
        return shared | private | moments | done

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            FedlabError: the state is of another recipe or dataset: a tensor is missing or has another shape.
        """
        shapes = {f"shared.{k}": v.shape for k, v in self.method.shared.state_dict().items()}
        shapes |= {f"private.{k}": v.shape for k, v in self.private.items()}
        if self.kept_UI is not None:
            shapes["private.kept scores"] = self.kept_UI.shape
        if self.groups is not None:
            shapes |= {name: value.shape for name, value in self.groups.state().items()}
        for name, shape in shapes.items():
            if name not in state or state[name].shape != shape:
                raise FedlabError(f"the saved state does not fit this recipe and data: {name} differs")
        of_personal = {k: state[f"{PERSONAL}.{k}"] for k in ("pairs", "rows") if f"{PERSONAL}.{k}" in state}
        if self.personal is not None and len(of_personal) < 2:
            raise FedlabError(f"the saved state does not fit this recipe and data: {PERSONAL} is missing")
        self.method.shared.load_state_dict(
            {k.removeprefix("shared."): v for k, v in state.items() if k.startswith("shared.")}
        )
        for name, parameter in self.private.items():
            parameter.copy_(state[f"private.{name}"])
        if self.personal is not None:
            self.personal.load_state(of_personal)
        if self.kept_UI is not None:
            self.kept_UI.copy_(state["private.kept scores"])
        if self.groups is not None:
            self.groups.load_state(state)
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
        if part.by_group:
            download += 4 * method.n_items
    whole += sum(method.client.get_parameter(n).numel() for n in method.shown)
    return Traffic(download, per_row, whole)


def sends_rows(method: Method, name: str) -> bool:
    """Does a client upload only the rows that it touched? Else all of the part."""
    part = method.parts[name]
    if part.upload == "value" and method.client.backbone.keeps_items:
        return False
    return part.by_item and part.upload is not None


def build_method(recipe: Recipe, data: Dataset) -> Method:
    """The recipe's method for this data, its initial values drawn from the recipe's seed."""
    double = torch.float64  # what is kept in double is standardised in double, and rounded then
    features = {m: f if f.dtype == double else f.to(recipe.dtype) for m, f in data.features.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = lookup("method", recipe.method)(recipe, data.n_items, features)
    method.n_samples = (1 + recipe.negatives) * float(data.train.lengths.mean())
    method.shared.to(recipe.dtype)
    method.client.to(recipe.dtype)
    return method
