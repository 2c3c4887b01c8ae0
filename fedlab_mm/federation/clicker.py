"""What a client does that predicts clicks: local epochs on its own showings, alone or side by side with others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.draws import keys, uniforms
from fedlab_mm.methods.optimizers import LocalOptimizer
from fedlab_mm.methods.parts import Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.sequential.base import ClickModel
from fedlab_mm.sequential.sequences import Windows

DROP = 0x6472


@dataclass
class Local:
    """A client's work, or a chunk's side by side: what changed, the loss, the groups."""

    change: dict[str, Tensor] = field(default_factory=dict)
    private: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor = field(default_factory=lambda: torch.zeros(0))
    group_L: Tensor | None = None


@dataclass(frozen=True)
class Clicker:
    """ClientUpdate of a click model in round t: a pure function of what a client keeps, is sent and was shown.

    Attributes:
        frozen: parameters that nobody trains; rates: each other parameter's learning rate, gates apart.
        share_LG: the share of the last round's clients in each block's groups.
    """

    model: ClickModel
    recipe: Recipe
    frozen: Parameters
    rates: Mapping[str, float]
    share_LG: Tensor | None
    t: int

    def rate(self, name: str) -> float:
        """Of what a client keeps, of its copies of what is shared, of gates."""
        return self.recipe.gate_lr if is_gate(name) else self.rates[name]

    def drop_of(self, clients: np.ndarray, epoch: int, stacked: bool) -> Callable[[str, Tensor], Tensor] | None:
        """Dropout by masks that depend on the client, the round, the epoch and the place, not on the engine."""
        p = self.recipe.dropout
        if not p:
            return None

        def drop(site: str, x: Tensor) -> Tensor:
            salt = DROP + (int.from_bytes(site.encode()[-5:], "big") << 16) + (epoch << 56)
            key = keys(self.recipe.seed, self.t, clients, salt % 2**63)
            drawn = uniforms(key[:, None], np.arange(x.shape[-1] * x.shape[-2])).reshape(-1, *x.shape[-2:])
            kept = torch.from_numpy((drawn >= p) / (1 - p)).to(x)
            return x * (kept if stacked else kept[0])

        return drop

    def train(
        self, clients: np.ndarray, private: Parameters, sent: Parameters, windows: Windows, stacked: bool
    ) -> Local:
        """The local epochs of one client, or of a chunk side by side: [C, …] of everything.

        Args:
            private: the clients' own parameters; sent: what the server broadcast, of what is by group [G, …].
        """
        r, model, group_L = self.recipe, self.model, None
        if model.by_group:
            with torch.no_grad():
                whole = {**self.frozen, **sent, **private}
                routing = functional_call(model, whole, (windows, None, self.drop_of(clients, 0, stacked))).routing
                assert routing is not None
                group_L = routing.group_L
        given = {}
        for name, value in sent.items():
            if name in model.by_group and group_L is not None:
                given[name] = value[group_L[..., block_of(name)]]
            else:
                given[name] = value.expand(len(clients), *value.shape) if stacked else value
        local = {n: p.clone().requires_grad_() for n, p in {**given, **private}.items()}
        gates = {n: p for n, p in local.items() if is_gate(n)}
        rest = {n: p for n, p in local.items() if not is_gate(n)}
        optimizers = [
            LocalOptimizer(name, of_kind, {n: self.rate(n) for n in of_kind}, r.weight_decay)
            for name, of_kind in ((r.optimizer, rest), ("sgd", gates))
            if of_kind
        ]
        total = torch.zeros(len(clients), dtype=torch.float64)
        for epoch in range(r.local_epochs):
            arguments = (windows, group_L, self.drop_of(clients, epoch, stacked))
            output = functional_call(model, {**self.frozen, **local}, arguments)
            loss = model.loss(output, windows, self.share_LG)
            gradients = torch.autograd.grad(loss.sum(), list(local.values()), allow_unused=True)
            filled = {n: torch.zeros_like(local[n]) if g is None else g for n, g in zip(local, gradients, strict=True)}
            with torch.no_grad():
                for optimizer in optimizers:
                    optimizer.step({n: filled[n] for n in optimizer.parameters})
            total += loss.detach().double().cpu()
        done = {n: p.detach() for n, p in local.items()}
        change = {n: done[n] - given[n] for n in given}
        return Local(change, {n: done[n] for n in private}, total / r.local_epochs, group_L)


def is_gate(name: str) -> bool:
    return ".ffn.switch." in name


def block_of(name: str) -> int:
    """The block that a parameter is of: "blocks.1.ffn.group.hidden.weight" is of block 1."""
    return int(name.split(".")[1])
