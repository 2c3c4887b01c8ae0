"""A federation whose clients predict clicks: its samples, its server, its clients' private state, its predictions."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.errors import DivergedError, FedlabError
from fedlab_mm.federation.base import Federation
from fedlab_mm.federation.channel import Change, Uploads
from fedlab_mm.federation.clicker import Clicker, block_of, is_gate
from fedlab_mm.federation.client import Done, Work
from fedlab_mm.federation.state import Storage
from fedlab_mm.methods.optimizers import Adam
from fedlab_mm.methods.parts import Memory, Parameters
from fedlab_mm.records import ClickLog
from fedlab_mm.registry import lookup
from fedlab_mm.sequential.base import ClickModel, click_model
from fedlab_mm.sequential.sequences import Sequences, Windows

CHUNK = 64


@dataclass(frozen=True)
class ClickSamples:
    """The showings that a round's clients train on; `of(c)` are the c-th client's."""

    clients: np.ndarray
    lengths: np.ndarray
    sequences: Sequences

    def of(self, c: int) -> Windows:
        return self.sequences.windows("train", self.clients[c : c + 1]).of(0)


class ClickFederation(Federation):
    """Clients that predict clicks.

    Attributes:
        model: in the common initial state; shared: name -> what the server holds, of what is by group [G, …].
        group_UL: int64 [U, L], the groups that each client was last sent to, −1 before its first round.
        share_LG: the share of the last round's clients in each block's groups; None before the first.

    Raises:
        FedlabError: sequences too short for the log, a validation split of one kind of showings.
    """

    task, engines, does = "clicks", "click engine", "predicts clicks"
    data: ClickLog

    def build(self) -> str:
        recipe, data = self.recipe, self.data
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
        self.memory = Memory()
        self.storage = Storage(self.device)
        return self.model.aggregation

    def begin(self) -> None:
        recipe, data = self.recipe, self.data
        parameters = {n: p.detach() for n, p in self.model.named_parameters()}
        self.shared = {n: parameters[n].clone() for n in self.model.shared_names}
        self.private = {n: parameters[n].repeat(data.n_users, *[1] * parameters[n].ndim) for n in self.model.private}
        self.frozen = {n: p for n, p in parameters.items() if n not in self.shared and n not in self.private}
        if "user" in self.private:
            codes = torch.from_numpy(self.sequences.user_codes).to(self.device)
            self.private["user"] = self.model.initial_user(codes).clone()
        self.lr: float = recipe.lr or lookup("optimizer", recipe.optimizer).click_lr
        server = lookup("optimizer", recipe.server_optimizer or "sgd")
        if not server.plain and server is not Adam:
            raise FedlabError(f"server_optimizer='{recipe.server_optimizer}': of click models there are: sgd, adam")
        self.shared_lr: float = recipe.shared_lr or (self.lr if server.plain else server.click_lr)
        self.moments: dict[str, Tensor] = {}
        self.n_blocks = len({block_of(n) for n in self.model.by_group})
        self.n_groups: int = recipe.groups if self.model.by_group else 1
        self.group_UL = torch.full((data.n_users, self.n_blocks), -1, dtype=torch.int64)
        self.share_LG: Tensor | None = None

    # A round.

    def samples_of(self, clients: np.ndarray, t: int) -> ClickSamples:
        lengths = np.minimum(self.sequences.n_targets("train")[clients], self.recipe.max_length)
        return ClickSamples(clients, lengths, self.sequences)

    def broadcast(self) -> dict[str, Tensor]:
        return self.shared

    def nothing(self, sent: Parameters) -> dict[str, Tensor]:
        return {n: torch.zeros_like(p) for n, p in self.shared.items()}

    def clicker(self, t: int) -> Clicker:
        """What the clients of round t do."""
        rates = {n: self.lr if n in self.private else self.shared_lr for n in (*self.shared, *self.private)}
        return Clicker(self.model, self.recipe, self.frozen, rates, self.share_LG, t)

    def client_round(self, samples: ClickSamples, c: int, sent: Parameters) -> Done:
        user = samples.clients[c : c + 1]
        private = {n: p[int(user[0])] for n, p in self.private.items()}
        clicker = self.clicker(self.round + 1)
        local = clicker.train(user, private, sent, samples.of(c).to(self.device), stacked=False)
        change = {n: value[None] for n, value in local.change.items()}
        group_CL = None if local.group_L is None else local.group_L[None]
        uploads = self.uploads(user, samples.lengths[c : c + 1], change, group_CL, sent)
        return Done(local.private, float(local.loss), uploads, group_L=local.group_L)

    def uploads(
        self,
        clients: np.ndarray,
        n_samples_C: np.ndarray,
        change: Parameters,
        group_CL: Tensor | None,
        sent: Parameters,
    ) -> Uploads:
        """How far clients' copies have moved, [C, …], of what is by group those of the group that each was sent to."""
        changes = {}
        for name, value in change.items():
            by_group = name in self.model.by_group
            group_C = None if group_CL is None or not by_group else group_CL[:, block_of(name)]
            changes[name] = Change(value, group_C=group_C)
        return Uploads(clients, n_samples_C, changes, sent)

    def update_server(self, sent: Parameters, mixed: Parameters, work: Work, alpha_C: np.ndarray, t: int) -> None:
        """θ ← θ + Σ α_u Δ_u, of a group's layers the mean over its own clients; or a step of Adam along that change."""
        changed, came = {}, {}
        for name, total in mixed.items():
            came[name] = torch.tensor(len(alpha_C) > 0, device=self.device)
            if name in self.model.by_group and work.group_CL is not None:
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

    def keep(self, clients: np.ndarray, work: Work) -> None:
        for name, new in work.private.items():
            assert isinstance(new, Tensor)
            self.private[name][torch.from_numpy(clients).to(self.device)] = new
        if work.group_CL is not None and len(clients):
            self.group_UL[clients] = work.group_CL.cpu()
            hot_CLG = torch.nn.functional.one_hot(work.group_CL, self.n_groups)
            self.share_LG = hot_CLG.to(self.recipe.dtype).mean(dim=0)

    def traffic(self, sent: Parameters, n_rows_C: np.ndarray) -> tuple[int, int]:
        up, down = self.numbers()
        return len(n_rows_C) * (4 * up + 8), len(n_rows_C) * 4 * down

    def numbers(self) -> tuple[int, int]:
        """How many numbers a client sends and receives in a round: of the groups' layers it sends those of its own, and
        receives all, for its gates choose among them on the device."""
        by_group = sum(self.shared[n].numel() for n in self.model.by_group)
        whole = sum(p.numel() for n, p in self.shared.items() if n not in self.model.by_group)
        return whole + by_group // self.n_groups, whole + by_group

    # Evaluation.

    def model_of(self, user: int) -> ClickModel:
        """A user's own model, to look into: a copy with its private parameters and the server's shared ones."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({**self.frozen, **self.shared, **{n: p[user] for n, p in self.private.items()}})
        return model.eval()

    def groups_of_users(self) -> np.ndarray | None:
        """Each user's group in each block, [U, L]; None without groups."""
        return self.group_UL.numpy().copy() if self.n_blocks else None

    def predict(self, split: str) -> pd.DataFrame:
        """What is predicted of a split's showings: user, click, logit; by each client with its own private state."""
        wanted_U = np.minimum(self.sequences.n_targets(split), self.recipe.max_length)
        windows = self.sequences.chunks(split, np.flatnonzero(wanted_U), self.chunk)
        rows = []
        for chunk, logits in zip(windows, self.backend.logits(windows), strict=True):
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

    # Saving and resuming.

    def tensors(self) -> dict[str, Tensor]:
        lying = {f"shared.{n}": p for n, p in self.shared.items()} | {
            f"private.{n}": p for n, p in self.private.items()
        }
        return lying | {"groups": self.group_UL}

    def other_state(self) -> dict[str, Tensor]:
        other = {f"moments.{n}": p.cpu().clone() for n, p in self.moments.items()}
        return other if self.share_LG is None else other | {"shares": self.share_LG.cpu().clone()}

    def load_other_state(self, state: Parameters) -> None:
        moments = {n.removeprefix("moments."): p for n, p in state.items() if n.startswith("moments.")}
        self.moments = {n: p.to(self.device).clone() for n, p in moments.items()}
        self.share_LG = state["shares"].to(self.device).clone() if "shares" in state else None
