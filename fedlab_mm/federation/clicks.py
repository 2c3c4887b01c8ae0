"""Federations that predict clicks: a round, evaluation, and both engines.

`loop` trains one client at a time; `stacked` a chunk of clients of like length side by side, each with its own private
layers. Where a client takes a single step of SGD, the mean of what clients would send is one step along the gradient of
their weighted loss, so `stacked` never makes their copies of what they share.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.draws import keys, uniforms
from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.methods.optimizers import LocalOptimizer
from fedlab_mm.privacy import Guard
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog, RoundRecord
from fedlab_mm.registry import lookup, register
from fedlab_mm.sequential.base import ClickModel, click_model
from fedlab_mm.sequential.sequences import Sequences, Windows
from fedlab_mm.simulation.engine import pace, select_clients
from fedlab_mm.simulation.state import device_of
from fedlab_mm.threads import lap

CHUNK = 64
DROP = 0x6472
LR = {"sgd": 0.5, "adam": 0.01}


@dataclass
class ClickWork:
    """What a round's clients did.

    Attributes:
        loss_C: float64 [C]; private: name -> [C, …], new values.
        mixed: name -> Σ_u α_u (θ_u − θ); of what is by group, with a leading axis of groups, each over its own clients.
        group_CL: int64 [C, L], where a client was sent; L is zero without groups.
    """

    loss_C: Tensor
    private: dict[str, Tensor]
    mixed: dict[str, Tensor]
    group_CL: Tensor


@dataclass
class Local:
    """A client's work, or a chunk's side by side: what changed, the loss, the groups."""

    change: dict[str, Tensor] = field(default_factory=dict)
    private: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor = field(default_factory=lambda: torch.zeros(0))
    group_L: Tensor | None = None


class ClickEngine:
    """A federation in memory.

    Attributes:
        model: in the common initial state; shared: name -> what the server holds, of what is by group [G, …].
        private: name -> [U, …].
        group_UL: int64 [U, L], the groups that each client was last sent to, −1 before its first round.
        share_LG: the share of the last round's clients in each block's groups; None before the first.

    Raises:
        FedlabError: a mechanism of privacy that does not cover these models.
    """

    def __init__(self, recipe: Recipe, data: ClickLog):
        self.recipe, self.data = recipe, data
        recipe.refuse_foreign("clicks")
        self.device = device_of(recipe.device)
        self.model: ClickModel = click_model(recipe, data).to(self.device)
        self.sequences = Sequences(data, recipe.max_length, recipe.dtype)
        for split in ("valid", "test"):
            most = int(self.sequences.n_targets(split).max())
            if most > recipe.max_length:
                raise FedlabError(
                    f"max_length={recipe.max_length}: a user of {data.name} has {most} {split} showings, and a "
                    "sequence must reach over all of them: raise it"
                )
        valid = data.interactions["click"][data.interactions["split"] == "valid"]
        if valid.nunique() < 2:
            raise FedlabError(
                f"{data.name}: the {len(valid)} validation showings do not hold both clicks and others, so no AUC can "
                "choose a round"
            )
        parameters = {n: p.detach() for n, p in self.model.named_parameters()}
        self.shared = {n: parameters[n].clone() for n in self.model.shared_names}
        self.private = {n: parameters[n].repeat(data.n_users, *[1] * parameters[n].ndim) for n in self.model.private}
        self.frozen = {n: p for n, p in parameters.items() if n not in self.shared and n not in self.private}
        if "user" in self.private:
            codes = torch.from_numpy(self.sequences.user_codes).to(self.device)
            self.private["user"] = self.model.initial_user(codes).clone()
        self.aggregation = lookup("aggregation", recipe.aggregation or self.model.aggregation)()
        self.guard = Guard.of(recipe)
        self.lr = recipe.lr or LR[recipe.optimizer]
        self.shared_lr = recipe.shared_lr or (LR["adam"] if recipe.server_optimizer == "adam" else self.lr)
        self.moments: dict[str, Tensor] = {}
        self.n_blocks = len({block_of(n) for n in self.model.by_group})
        self.n_groups: int = recipe.groups if self.model.by_group else 1
        self.group_UL = torch.full((data.n_users, self.n_blocks), -1, dtype=torch.int64)
        self.share_LG: Tensor | None = None
        self.round = 0
        self.last_clients = np.zeros(0, dtype=np.int64)
        self.views: list[str] = []

    # What an engine must provide.

    def train_clients(self, clients: np.ndarray, alpha_C: np.ndarray) -> ClickWork:
        raise NotImplementedError

    def logits(self, windows: list[Windows]) -> list[Tensor]:
        """Logits [C, T] of each chunk."""
        raise NotImplementedError

    # What both share.

    def step(self) -> RoundRecord:
        """One communication round.

        Raises:
            DivergedError: a loss or a parameter is no longer finite. The state stays as it was.
        """
        with pace(self, "round"):
            return self._step()

    def _step(self) -> RoundRecord:
        start, t = time.perf_counter(), self.round + 1
        clients = select_clients(self.recipe, self.data.n_users, t, self.last_clients)
        lengths = np.minimum(self.sequences.n_targets("train")[clients], self.recipe.max_length)
        alpha_C = self.aggregation.matrix(lengths)[0] if len(clients) else np.zeros(0)
        if len(clients):
            work = self.train_clients(clients, alpha_C)
        else:  # a Poisson sample may be empty
            nothing = torch.zeros(0, self.n_blocks, dtype=torch.int64, device=self.device)
            mixed = {n: torch.zeros_like(p) for n, p in self.shared.items()}
            work = ClickWork(torch.zeros(0, dtype=torch.float64), {}, mixed, nothing)
        sound_C = torch.isfinite(work.loss_C)
        for new in work.private.values():
            sound_C = sound_C & torch.isfinite(new[:, None].flatten(1).sum(dim=1)).to(sound_C.device)
        if not sound_C.all():
            raise DivergedError(t, int(clients[int((~sound_C).nonzero()[0])]))
        self._update(work, clients, alpha_C, t)
        for name, new in work.private.items():
            self.private[name][torch.from_numpy(clients).to(self.device)] = new
        if self.n_blocks and len(clients):
            self.group_UL[clients] = work.group_CL.cpu()
            hot_CLG = torch.nn.functional.one_hot(work.group_CL, self.n_groups)
            self.share_LG = hot_CLG.to(self.recipe.dtype).mean(dim=0)
        self.round, self.last_clients = t, clients
        up, down = self.numbers()
        return RoundRecord(
            round=t,
            clients=clients,
            loss=float(alpha_C @ work.loss_C.double().cpu().numpy()),
            metrics={},
            upload_bytes=len(clients) * (4 * up + 8),
            download_bytes=len(clients) * 4 * down,
            seconds=time.perf_counter() - start,
            model=self,  # type: ignore[arg-type]  # of what a model is asked, a click model has its part
        )

    def numbers(self) -> tuple[int, int]:
        """How many numbers a client sends and receives in a round: of the groups' layers it sends those of its own, and
        receives all, for its gates choose among them on the device."""
        by_group = sum(self.shared[n].numel() for n in self.model.by_group)
        whole = sum(p.numel() for n, p in self.shared.items() if n not in self.model.by_group)
        return whole + by_group // self.n_groups, whole + by_group

    def _update(self, work: ClickWork, clients: np.ndarray, alpha_C: np.ndarray, t: int) -> None:
        """θ ← θ + Σ α_u Δ_u, of a group's layers the mean over its own clients; or a step of Adam along that change."""
        changed, came = {}, {}
        for name, total in work.mixed.items():
            came[name] = torch.tensor(len(clients) > 0, device=self.device)
            if name in self.model.by_group:
                alpha = torch.from_numpy(alpha_C).to(total)
                weight_G = total.new_zeros(len(total)).index_add(0, work.group_CL[:, block_of(name)], alpha)
                weight = weight_G.view(-1, *[1] * (total.ndim - 1))
                came[name] = weight > 0
                total = torch.where(weight > 0, total / weight.clamp(min=1e-300), 0.0)
            changed[name] = total
        if self.recipe.server_optimizer == "adam":
            moments = self._adam(changed, came)
        else:
            moments, changed = self.moments, {n: self.shared[n] + change for n, change in changed.items()}
        if not all(torch.isfinite(p.sum()) for p in changed.values()):
            raise DivergedError(t, None)
        self.shared, self.moments = {**self.shared, **changed}, moments

    def _adam(self, changed: dict[str, Tensor], came: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adam on the server, after FedAdam (Reddi et al. 2021): the mean change, over the clients' rate, stands for a
        gradient, Adam's bias correction and ε included. Makes `changed` the new values. A group that nobody came to
        stays, and so do its moments and the number of its steps."""
        moments = {}
        for name, change in changed.items():
            if is_gate(name):
                changed[name] = self.shared[name] + change
                continue
            gradient = -change / self.shared_lr
            m, v = self.moments.get(f"m.{name}"), self.moments.get(f"v.{name}")
            m = torch.zeros_like(gradient) if m is None else m
            v = torch.zeros_like(gradient) if v is None else v
            n = self.moments.get(f"n.{name}", torch.zeros(came[name].shape, dtype=torch.float64, device=self.device))
            moments[f"n.{name}"] = n = n + came[name]
            moments[f"m.{name}"] = m = torch.where(came[name], 0.9 * m + 0.1 * gradient, m)
            moments[f"v.{name}"] = v = torch.where(came[name], 0.999 * v + 0.001 * gradient.square(), v)
            first, second = ((1 - beta ** n.clamp(min=1)).to(m) for beta in (0.9, 0.999))
            step = self.shared_lr * (m / first) / ((v / second).sqrt() + 1e-8)
            changed[name] = torch.where(came[name], self.shared[name] - step, self.shared[name])
        return moments

    def lr_of(self, names: list[str]) -> dict[str, float]:
        """Each parameter's rate: of what a client keeps, of its copies of what is shared, of gates."""
        rates = {n: self.lr if n in self.private else self.shared_lr for n in names}
        return {n: self.recipe.gate_lr if is_gate(n) else rate for n, rate in rates.items()}

    def drop_of(self, clients: np.ndarray, epoch: int, stacked: bool) -> Callable[[str, Tensor], Tensor] | None:
        """Dropout by masks that depend on the client, the round, the epoch and the place, not on the engine."""
        p = self.recipe.dropout
        if not p:
            return None

        def drop(site: str, x: Tensor) -> Tensor:
            salt = DROP + (int.from_bytes(site.encode()[-5:], "big") << 16) + (epoch << 56)
            key = keys(self.recipe.seed, self.round + 1, clients, salt % 2**63)
            drawn = uniforms(key[:, None], np.arange(x.shape[-1] * x.shape[-2])).reshape(-1, *x.shape[-2:])
            kept = torch.from_numpy((drawn >= p) / (1 - p)).to(x)
            return x * (kept if stacked else kept[0])

        return drop

    def train_local(self, clients: np.ndarray, windows: Windows, stacked: bool) -> Local:
        """The local epochs of one client, or of a chunk side by side: [C, …] of everything."""
        r, model = self.recipe, self.model
        here = torch.from_numpy(clients).to(self.device)
        own = {n: p[here] if stacked else p[here[0]] for n, p in self.private.items()}
        group_L = None
        if self.n_blocks:
            with torch.no_grad():
                shared = {**self.frozen, **self.shared, **own}
                routing = functional_call(model, shared, (windows, None, self.drop_of(clients, 0, stacked))).routing
                assert routing is not None
                group_L = routing.group_L
        sent = {}
        for name, value in self.shared.items():
            if name in model.by_group and group_L is not None:
                sent[name] = value[group_L[..., block_of(name)]]
            else:
                sent[name] = value.expand(len(clients), *value.shape) if stacked else value
        local = {n: p.clone().requires_grad_() for n, p in {**sent, **own}.items()}
        gates = {n: p for n, p in local.items() if is_gate(n)}
        rest = {n: p for n, p in local.items() if not is_gate(n)}
        optimizers = [
            LocalOptimizer(name, own_kind, self.lr_of(list(own_kind)), r.weight_decay)
            for name, own_kind in ((r.optimizer, rest), ("sgd", gates))
            if own_kind
        ]
        total = torch.zeros(len(clients), dtype=torch.float64)
        for epoch in range(r.local_epochs):
            arguments = (windows, group_L, self.drop_of(clients, epoch, stacked))
            output = functional_call(model, {**self.frozen, **local}, arguments)
            loss = model.loss(output, windows, self.share_LG)
            gradients = torch.autograd.grad(loss.sum(), list(local.values()), allow_unused=True)
            found = {n: torch.zeros_like(local[n]) if g is None else g for n, g in zip(local, gradients, strict=True)}
            with torch.no_grad():
                for optimizer in optimizers:
                    optimizer.step({n: found[n] for n in optimizer.parameters})
            total += loss.detach().double().cpu()
        done = {n: p.detach() for n, p in local.items()}
        change = {n: done[n] - sent[n] for n in sent}
        if r.noise:
            for n, moved in change.items():
                noise = self.guard.noise_of(n, moved if stacked else moved[None], clients, self.round + 1, None)
                change[n] = moved + (noise if stacked else noise[0])
        return Local(change, {n: done[n] for n in own}, total / r.local_epochs, group_L)

    # Evaluation.

    def model_of(self, user: int) -> ClickModel:
        """A user's own model, to look into: a copy with its private parameters and the server's shared ones."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({**self.frozen, **self.shared, **{n: p[user] for n, p in self.private.items()}})
        return model.eval()

    def groups_of_users(self) -> np.ndarray | None:
        """Each user's group in each block, [U, L]; None without groups."""
        return self.group_UL.numpy().copy() if self.n_blocks else None

    def router_weights(self) -> Tensor | None:
        return None

    def predict(self, split: str) -> pd.DataFrame:
        """What is predicted of a split's showings: user, click, logit; by each client with its own private state."""
        wanted_U = np.minimum(self.sequences.n_targets(split), self.recipe.max_length)
        windows = self.sequences.chunks(split, np.flatnonzero(wanted_U), self.chunk)
        rows = []
        for chunk, logits in zip(windows, self.logits(windows), strict=True):
            length_C = chunk.lengths.long()
            wanted_C = torch.from_numpy(wanted_U)[chunk.users]
            step = torch.arange(logits.shape[1])
            asked_CT = (step < length_C[:, None]) & (step >= (length_C - wanted_C)[:, None])
            user_CT = chunk.users[:, None].expand_as(asked_CT)
            rows.append(
                pd.DataFrame(
                    {
                        "user": user_CT[asked_CT].numpy(),
                        "click": chunk.label[asked_CT].long().numpy(),
                        "logit": logits.cpu()[asked_CT].double().numpy(),
                    }
                )
            )
        return pd.concat(rows).sort_values("user", kind="stable").reset_index(drop=True)

    @property
    def chunk(self) -> int:
        return self.recipe.chunk or CHUNK

    def state(self) -> dict[str, Tensor]:
        state = {"round": torch.tensor(self.round), "last_clients": torch.from_numpy(self.last_clients.copy())}
        state |= {f"shared.{n}": p.cpu().clone() for n, p in self.shared.items()}
        state |= {f"private.{n}": p.cpu().clone() for n, p in self.private.items()}
        state |= {f"moments.{n}": p.cpu().clone() for n, p in self.moments.items()}
        state["groups"] = self.group_UL.clone()
        if self.share_LG is not None:
            state["shares"] = self.share_LG.cpu().clone()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            FedlabError: the state is of another recipe or log: a tensor is missing or has another shape.
        """
        for name, value in self.state().items():
            optional = name == "shares" or name.startswith("moments.") or name == "last_clients"
            if not optional and (name not in state or state[name].shape != value.shape):
                raise FedlabError(f"the saved state does not fit this recipe and data: {name} differs")
        self.round = int(state["round"])
        self.last_clients = state["last_clients"].numpy().copy()
        for kind in ("shared", "private", "moments"):
            found = {n.removeprefix(f"{kind}."): p for n, p in state.items() if n.startswith(f"{kind}.")}
            setattr(self, kind, {n: p.to(self.device).clone() for n, p in found.items()})
        self.group_UL = state["groups"].clone()
        self.share_LG = state["shares"].to(self.device).clone() if "shares" in state else None


@register("click engine", "loop")
class ClickLoop(ClickEngine):
    """One client at a time, on its own showings, nothing padded."""

    def train_clients(self, clients: np.ndarray, alpha_C: np.ndarray) -> ClickWork:
        mixed = {n: torch.zeros_like(p) for n, p in self.shared.items()}
        losses, private, groups = [], [], []
        for c in range(len(clients)):
            windows = self.sequences.windows("train", clients[c : c + 1]).of(0).to(self.device)
            done = self.train_local(clients[c : c + 1], windows, stacked=False)
            for name, change in done.change.items():
                if name in self.model.by_group and done.group_L is not None:
                    mixed[name][done.group_L[block_of(name)]] += alpha_C[c] * change
                else:
                    mixed[name] += alpha_C[c] * change
            lap(len(windows.label))
            losses.append(done.loss)
            private.append(done.private)
            groups.append(torch.zeros(0, dtype=torch.int64) if done.group_L is None else done.group_L)
        return ClickWork(
            torch.cat(losses),
            {n: torch.stack([p[n] for p in private]) for n in self.private},
            mixed,
            torch.stack(groups),
        )

    @torch.no_grad()
    def logits(self, windows: list[Windows]) -> list[Tensor]:
        found = []
        for chunk in windows:
            logits_CT = torch.zeros(chunk.real.shape, dtype=self.recipe.dtype)
            for c, user in enumerate(chunk.users):
                one = chunk.of(c).to(self.device)
                parameters = {**self.frozen, **self.shared, **{n: p[user] for n, p in self.private.items()}}
                logits = functional_call(self.model, parameters, (one,)).logits
                logits_CT[c, : len(logits)] = logits
            found.append(logits_CT)
        return found


@register("click engine", "stacked")
class ClickStacked(ClickEngine):
    """A chunk of clients of like length at a time."""

    kept: tuple[bytes, list[Windows]] | None = None

    def train_clients(self, clients: np.ndarray, alpha_C: np.ndarray) -> ClickWork:
        mixed = {n: torch.zeros_like(p) for n, p in self.shared.items()}
        place_U = np.full(self.data.n_users, -1)
        place_U[clients] = np.arange(len(clients))
        new = {n: p.new_empty(len(clients), *p.shape[1:]) for n, p in self.private.items()}
        loss_C = torch.zeros(len(clients), dtype=torch.float64)
        group_CL = torch.zeros(len(clients), self.n_blocks, dtype=torch.int64, device=self.device)
        single = self.recipe.optimizer == "sgd" and self.recipe.local_epochs == 1
        for windows in self._chunks(clients):
            users = windows.users.cpu().numpy()
            here = torch.from_numpy(place_U[users])
            weight_C = torch.from_numpy(alpha_C[place_U[users]]).to(self.recipe.dtype).to(self.device)
            if single:
                done = self._one_step(users, windows, weight_C, mixed)
            else:
                done = self.train_local(users, windows, stacked=True)
                for name, change in done.change.items():
                    self._mix(mixed, name, change, weight_C, done.group_L)
            for name, values in done.private.items():
                new[name][here.to(self.device)] = values
            loss_C[here] = done.loss
            if done.group_L is not None:
                group_CL[here.to(self.device)] = done.group_L
            lap(windows.label.numel())
        return ClickWork(loss_C, new, mixed, group_CL)

    def _chunks(self, clients: np.ndarray) -> list[Windows]:
        """The clients' training windows; those of the last round are kept, for they do not change."""
        known = clients.tobytes()
        if self.kept is None or self.kept[0] != known:
            chunks = self.sequences.chunks("train", clients, self.chunk)
            self.kept = known, [w.to(self.device) for w in chunks]
        return self.kept[1]

    def _mix(
        self, mixed: dict[str, Tensor], name: str, change: Tensor, weight_C: Tensor, group_CL: Tensor | None
    ) -> None:
        weighted = change * weight_C.view(-1, *[1] * (change.ndim - 1))
        if name in self.model.by_group and group_CL is not None:
            mixed[name].index_add_(0, group_CL[:, block_of(name)], weighted)
        else:
            mixed[name] += weighted.sum(dim=0)

    def _one_step(self, users: np.ndarray, windows: Windows, weight_C: Tensor, mixed: dict[str, Tensor]) -> Local:
        """One step of SGD: the clients' weighted mean change is −η times the gradient of Σ_u α_u L_u."""
        r, model = self.recipe, self.model
        here = torch.from_numpy(users).to(self.device)
        own = {n: p[here].requires_grad_() for n, p in self.private.items()}
        shared = {n: p.detach().requires_grad_() for n, p in self.shared.items()}
        output = functional_call(
            model, {**self.frozen, **shared, **own}, (windows, None, self.drop_of(users, 0, stacked=True))
        )
        loss_C = model.loss(output, windows, self.share_LG)
        leaves = {**shared, **own}
        # A client of weight zero moves its own part too; so little of it does not move what is shared.
        weight_C = weight_C.clamp(min=1e-12)
        found = torch.autograd.grad((weight_C * loss_C).sum(), list(leaves.values()), allow_unused=True)
        gradients = {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), found, strict=True)
        }
        group_CL = None if output.routing is None else output.routing.group_L
        with torch.no_grad():
            for name, value in self.shared.items():
                rate = self.lr_of([name])[name]
                mixed[name] -= rate * gradients[name]
                if not (r.weight_decay or r.noise):
                    continue
                sent_C = value.expand(len(users), *value.shape)
                if name in model.by_group and group_CL is not None:
                    sent_C = value[group_CL[:, block_of(name)]]
                beside = -rate * r.weight_decay * sent_C
                if r.noise:
                    beside = beside + self.guard.noise_of(name, sent_C, users, self.round + 1, None)
                self._mix(mixed, name, beside, weight_C, group_CL)
            private = {}
            for name, value in own.items():
                weight = weight_C.view(-1, *[1] * (value.ndim - 1))
                private[name] = value.detach() * (1 - self.lr * r.weight_decay) - self.lr * gradients[name] / weight
        return Local({}, private, loss_C.detach().double().cpu(), group_CL)

    @torch.no_grad()
    def logits(self, windows: list[Windows]) -> list[Tensor]:
        found = []
        for chunk in windows:
            here = chunk.users.to(self.device)
            parameters = {**self.frozen, **self.shared, **{n: p[here] for n, p in self.private.items()}}
            found.append(functional_call(self.model, parameters, (chunk.to(self.device),)).logits)
        return found


def is_gate(name: str) -> bool:
    return ".ffn.switch." in name


def block_of(name: str) -> int:
    """The block that a parameter is of: "blocks.1.ffn.group.hidden.weight" is of block 1."""
    return int(name.split(".")[1])
