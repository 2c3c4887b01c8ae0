"""The fast backend of clients that predict clicks: a chunk of clients of like length side by side.

Where a client takes a single step of SGD, the mean of what clients would send is one step along the gradient of their
weighted loss, so their copies of what they share are never made.
"""

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.federation.backends.base import Backend
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.clicker import Clicker, Local, block_of
from fedlab_mm.federation.clicks import ClickFederation, ClickSamples
from fedlab_mm.federation.client import Work
from fedlab_mm.methods.parts import Parameters
from fedlab_mm.registry import lookup, register
from fedlab_mm.sequential.sequences import Windows
from fedlab_mm.threads import lap


@register("click engine", "stacked")
class StackedClicks(Backend):
    """Chunks of clients; the chunk's size changes speed and memory, not the result."""

    federation: ClickFederation
    windows: tuple[bytes, list[Windows]] | None = None

    def train(self, samples: ClickSamples, alpha_C: np.ndarray, sent: Parameters, intake: Intake) -> Work:
        f, clients = self.federation, samples.clients
        place_U = np.full(f.data.n_users, -1)
        place_U[clients] = np.arange(len(clients))
        new = {n: p.new_empty(len(clients), *p.shape[1:]) for n, p in f.private.items()}
        loss_C = torch.zeros(len(clients), dtype=torch.float64)
        group_CL = None
        if f.n_blocks:
            group_CL = torch.zeros(len(clients), f.n_blocks, dtype=torch.int64, device=f.device)
        plain = lookup("optimizer", f.recipe.optimizer).plain
        single = plain and f.recipe.local_epochs == 1 and intake.channel.adds_only
        for windows in self._chunks(clients):
            users = windows.users.cpu().numpy()
            where = torch.from_numpy(place_U[users])
            weight_C = torch.from_numpy(alpha_C[place_U[users]]).to(f.recipe.dtype).to(f.device)
            local = (
                self._one_step(users, windows, weight_C, sent, intake) if single else self._train(users, windows, sent)
            )
            if local.change:
                lengths = samples.lengths[place_U[users]]
                intake.take(f.uploads(users, lengths, local.change, local.group_L, sent), weight_C)
            for name, values in local.private.items():
                new[name][where.to(f.device)] = values
            loss_C[where] = local.loss
            if group_CL is not None and local.group_L is not None:
                group_CL[where.to(f.device)] = local.group_L
            lap(windows.label.numel())
        return Work(dict(new), loss_C, np.zeros(len(clients), dtype=np.int64), group_CL=group_CL)

    def _chunks(self, clients: np.ndarray) -> list[Windows]:
        """The clients' training windows; those of the last round are kept, for they do not change."""
        key = clients.tobytes()
        if self.windows is None or self.windows[0] != key:
            chunks = self.federation.sequences.chunks("train", clients, self.federation.chunk)
            self.windows = key, [w.to(self.federation.device) for w in chunks]
        return self.windows[1]

    def _own(self, users: np.ndarray) -> dict[str, Tensor]:
        where = torch.from_numpy(users).to(self.federation.device)
        return {n: p[where] for n, p in self.federation.private.items()}

    def _train(self, users: np.ndarray, windows: Windows, sent: Parameters) -> Local:
        clicker: Clicker = self.federation.clicker(self.federation.round + 1)
        return clicker.train(users, self._own(users), sent, windows, stacked=True)

    def _one_step(
        self, users: np.ndarray, windows: Windows, weight_C: Tensor, sent: Parameters, intake: Intake
    ) -> Local:
        """One step of SGD: the clients' weighted mean change is −η times the gradient of Σ_u α_u L_u.

        What is left to hand in is what weight decay adds to each client's change, and a channel's noise.
        """
        f, r, model = self.federation, self.federation.recipe, self.federation.model
        clicker = f.clicker(intake.t)
        own = {n: p.requires_grad_() for n, p in self._own(users).items()}
        shared = {n: p.detach().requires_grad_() for n, p in sent.items()}
        drop = clicker.drop_of(users, 0, stacked=True)
        output = functional_call(model, {**f.frozen, **shared, **own}, (windows, None, drop))
        loss_C = model.loss(output, windows, f.share_LG)
        leaves = {**shared, **own}
        # A client of weight zero moves its own part too; so little of it does not move what is shared.
        weight_C = weight_C.clamp(min=1e-12)
        of_leaves = torch.autograd.grad((weight_C * loss_C).sum(), list(leaves.values()), allow_unused=True)
        gradients = {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), of_leaves, strict=True)
        }
        group_CL = None if output.routing is None else output.routing.group_L
        change, private = {}, {}
        with torch.no_grad():
            for name, value in sent.items():
                intake.mixed[name] -= clicker.rate(name) * gradients[name]
                if r.weight_decay or not intake.channel.transparent:
                    given = value.expand(len(users), *value.shape)
                    if name in model.by_group and group_CL is not None:
                        given = value[group_CL[:, block_of(name)]]
                    change[name] = -clicker.rate(name) * r.weight_decay * given
            for name, value in own.items():
                weight = weight_C.view(-1, *[1] * (value.ndim - 1))
                moved = value.detach() * (1 - f.lr * r.weight_decay)
                private[name] = moved - f.lr * gradients[name] / weight
        return Local(change, private, loss_C.detach().double().cpu(), group_CL)

    @torch.no_grad()
    def logits(self, windows: list[Windows]) -> list[Tensor]:
        """Logits [C, T] of each chunk of showings."""
        f, logits = self.federation, []
        for chunk in windows:
            parameters = {**f.frozen, **f.shared, **self._own(chunk.users.cpu().numpy())}
            logits.append(functional_call(f.model, parameters, (chunk.to(f.device),)).logits)
        return logits
