"""A federation whose clients rank items: its samples, its server, its clients' private state, and its scores."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples, sample
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.federation.base import Federation
from fedlab_mm.federation.client import ClientSamples, Done, Work, train_ranker
from fedlab_mm.federation.state import PersonalRows, RankOne, Storage
from fedlab_mm.federation.traffic import traffic
from fedlab_mm.methods import Method
from fedlab_mm.methods.parts import PERSONAL, Memory, Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup

BLOCK_BYTES = 64e6  # of scores, and of what it takes to make them, that are held at once


class RankingFederation(Federation):
    """Clients that rank items.

    Attributes:
        method: the placement of fusion, with the shared parameters.
        personal: under a backbone with a personal table, every client's rows.
        kept_UI: under a backbone that keeps its items, all that a client's own copy is ever read for: its scores. (The
            copy itself is overwritten by the server's when the client next takes part.)

    Raises:
        FedlabError: the device is not there, or there is no room for so many clients.
    """

    task, engines, does = "ranking", "engine", "ranks items"

    def build(self) -> str:
        recipe, data = self.recipe, self.data
        self.method = build_method(recipe, data)
        self.method.shared.to(self.device)
        self.method.client.to(self.device)
        self.memory = self.method.memory(data.n_users, self.n_wanted)
        # A sum over all items has the same weight for every client: the mean of such sums is the objective of all.
        return "equal" if self.method.loss.whole else self.method.client.backbone.aggregation

    def begin(self) -> None:
        recipe, data = self.recipe, self.data
        initial = {n: p.detach() for n, p in self.method.client.named_parameters() if n in self.method.private}
        keeps = self.method.client.backbone.keeps_items
        self.storage = Storage(self.device)
        self.storage.foresee(
            self._needs(initial, keeps),
            f"fewer users, a smaller dim (now {recipe.dim}), fewer operators or single precision would do",
        )
        personal = initial.pop(PERSONAL, None)
        self.private = {name: self.storage.rows(p, data.n_users) for name, p in initial.items()}
        self.personal = None if personal is None else PersonalRows(personal, data.n_users, self.storage)
        self.optimizer = self.method.server_optimizer()
        self.kept_UI: Tensor | None = None
        if keeps:
            kept_UI = self.storage.empty((data.n_users, data.n_items), recipe.dtype)
            for users, scores_CI in self.score_blocks():
                kept_UI[users] = scores_CI
            self.kept_UI = kept_UI

    # A round.

    def samples_of(self, clients: np.ndarray, t: int) -> Samples:
        r = self.recipe
        by = None if r.negatives_by == "uniform" else self.data.popularity_I + 1
        drawn = 0 if self.method.loss.whole else r.negatives
        return sample(self.data.train, self.data.n_items, clients, drawn, r.seed, t, by)

    def broadcast(self) -> dict[str, Tensor]:
        return self.method.broadcast()

    def nothing(self, sent: Parameters) -> dict[str, Tensor]:
        return {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}

    def client_round(self, samples: Samples, c: int, sent: Parameters) -> Done:
        user, method = int(samples.clients[c]), self.method
        sampled = ClientSamples.of(*samples.of(c), self.recipe.dtype, self.device)
        private = {n: p[user].clone() for n, p in self.private.items()}
        if self.personal is not None:
            private[PERSONAL] = self.personal.read(torch.full_like(sampled.rows, user), sampled.rows)
        columns = {
            n: column_1I[0] for n, column_1I in self.columns(sent, torch.tensor([user], device=self.device)).items()
        }
        done, values = train_ranker(method, user, private, {**sent, **columns}, sampled, t=self.round + 1)
        assert done.uploads is not None
        done.uploads = replace(done.uploads, sent=sent)
        if self.kept_UI is not None:  # scores by its own copies
            local = {**sent, **columns, **private}
            for name in (n for n, part in method.parts.items() if part.moves):
                whole = method.parts[name].by_item
                local[name] = sent[name].index_copy(0, sampled.rows, values[name]) if whole else values[name]
            if self.personal is not None:
                table = self.personal.dense(slice(user, user + 1))[0]
                local[PERSONAL] = table.index_copy(0, sampled.rows, private[PERSONAL])
            with torch.no_grad():
                done.kept_I = method.logits(local, self.own_shares(slice(user, user + 1), self.data.n_items)[0])
        return done

    def update_server(self, sent: Parameters, mixed: Parameters, work: Work, alpha_C: np.ndarray, t: int) -> None:
        before = {n: p.clone() for n, p in self.method.shared.state_dict().items()}
        moments = copy.deepcopy(self.optimizer.state_dict()) if self.optimizer else None
        self.method.server_update(sent, mixed, self.optimizer)
        if all(torch.isfinite(p.sum()) for p in self.method.shared.parameters()):
            return
        self.method.shared.load_state_dict(before)
        if self.optimizer and moments:
            self.optimizer.load_state_dict(moments)
        raise DivergedError(t, None)

    def make_room(self, work: Work) -> None:
        if self.personal is not None and work.personal is not None:
            self.personal.reserve(len(work.personal[0]))

    def keep(self, clients: np.ndarray, work: Work) -> None:
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

    def traffic(self, sent: Parameters, n_rows_C: np.ndarray) -> tuple[int, int]:
        moved = traffic(self.method, sent)
        return moved.upload(n_rows_C), moved.download * len(n_rows_C)

    # What can be asked of it.

    @property
    def views(self) -> list[str]:
        """The names of the views that routers choose among."""
        return self.method.view_names if self.method.routes else []

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
            sent = self.backend.prepared(self._sent())
            weights = [self.backend.weights_of_users(sent, users).cpu() for users in self._blocks(self.data.n_items)]
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
            sent = self.backend.prepared(sent)
        for users in self._blocks(n_items):
            with torch.no_grad():
                scores_CI = self.backend.score_users(sent, users)
            yield users, scores_CI

    def _blocks(self, n_items: int) -> list[slice]:
        size = max(1, int(BLOCK_BYTES / self.backend.bytes_to_score(n_items)))
        return [slice(start, min(start + size, self.data.n_users)) for start in range(0, self.data.n_users, size)]

    def columns(self, sent: Parameters, users: Tensor) -> dict[str, Tensor]:
        """Of parts by group, what each of some users is sent of its group: name -> [C, I, …]."""
        by_group = [n for n, part in self.method.parts.items() if part.by_group]
        if not by_group:
            return {}
        column_C = self.memory.columns(users)
        return {name: sent[name].index_select(-1, column_C).movedim(-1, 0) for name in by_group}

    def own_shares(self, users: slice, n_items: int) -> Tensor:
        """1 / n_u at the users' training items, [C, I]."""
        histories = self.data.train.take(np.arange(users.start, users.stop))
        own_CI = torch.zeros(len(histories), n_items, dtype=self.recipe.dtype)
        own_CI[histories.users, histories.items] = torch.from_numpy(1 / histories.lengths[histories.users]).to(own_CI)
        return own_CI.to(self.device)

    def _needs(self, initial: Mapping[str, Tensor], keeps: bool) -> dict[str, int]:
        n_users, n_items, size = self.data.n_users, self.data.n_items, self.recipe.dtype.itemsize
        plain = {n: p for n, p in initial.items() if n != PERSONAL}
        numbers = sum(p.numel() for p in plain.values())
        needs = {f"the private parameters of {n_users:,} clients": n_users * numbers * size}
        needs["their new values in a round"] = self.n_wanted * self.backend.numbers_of_change(plain) * size
        if PERSONAL in initial:
            draws = 1 + self.recipe.rounds * self.recipe.negatives  # negatives are new in every round
            rows = min(draws * len(self.data.train.items), n_users * n_items) * initial[PERSONAL].shape[1] * size
            needs["the rows that they will have touched"] = n_users * n_items * torch.int32.itemsize + rows
        if type(self.memory) is not Memory:
            rows = self.n_wanted * (1 + self.recipe.negatives) * len(self.data.train.items) // n_users
            needs["the rows that a round's clients upload"] = rows * self.method.client.backbone.item_width * size
        if keeps:
            needs["the scores by the items that they keep"] = 2 * n_users * n_items * size
        return needs

    def tensors(self) -> dict[str, Tensor]:
        shared = {f"shared.{k}": v.detach() for k, v in self.method.shared.state_dict().items()}
        kept = {} if self.kept_UI is None else {"private.kept scores": self.kept_UI}
        return shared | {f"private.{k}": v for k, v in self.private.items()} | kept

    def other_state(self) -> dict[str, Tensor]:
        other: dict[str, Tensor] = {}
        if self.personal is not None:
            other |= {f"{PERSONAL}.{k}": v.cpu() for k, v in self.personal.state().items()}
        if self.optimizer:
            for i, entry in self.optimizer.state_dict()["state"].items():
                other |= {f"server.{i}.{k}": v.cpu().clone() for k, v in entry.items() if torch.is_tensor(v)}
        return other

    def load_other_state(self, state: Parameters) -> None:
        if self.personal is not None:
            of_personal = {k: state[f"{PERSONAL}.{k}"] for k in ("pairs", "rows") if f"{PERSONAL}.{k}" in state}
            if len(of_personal) < 2:
                raise FedlabError(f"the saved state does not fit this recipe and data: {PERSONAL} is missing")
            self.personal.load_state(of_personal)
        if self.optimizer:
            template = self.optimizer.state_dict()
            template["state"] = {}
            for name, value in state.items():
                if name.startswith("server."):
                    _, i, key = name.split(".")
                    template["state"].setdefault(int(i), {})[key] = value.clone()
            self.optimizer.load_state_dict(template)


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
