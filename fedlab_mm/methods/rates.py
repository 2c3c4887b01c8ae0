"""Learning rates and optimisers: which parameter of a method moves how fast, on clients and on the server."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedlab_mm.methods.optimizers import LocalOptimizer, Optimizer
from fedlab_mm.methods.parts import PERSONAL, Client, Part, Shared
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup

LARGEST_STEP = 25.0  # of an average client's row, times η; at 88 FCF diverged on short videos, at 50 it did not


class Rates:
    """What a `Method` says of its learning rates."""

    recipe: Recipe
    n_items: int
    n_samples: float
    open_rate: ClassVar[float]
    private: list[str]
    client: Client
    shared: Shared
    parts: dict[str, Part]
    phases: Callable[[], list[list[str]]]
    broadcast: Callable[[], dict[str, Tensor]]

    @property
    def steps_are_plain(self) -> bool:
        """Is a client's step −η · gradient and nothing else?"""
        return lookup("optimizer", self.recipe.optimizer).plain

    @property
    def rates_are_open(self) -> bool:
        """Does the recipe name neither lr nor shared_lr?"""
        return self.recipe.lr is None and self.recipe.shared_lr is None

    def id_lr_scale(self, name: str) -> float:
        """What multiplies shared_lr under SGD for a table with a row for each item, unless the recipe says.

        In the mean over clients a row sees about one sample in n_items, so its rate grows with them. But on a client it
        sees one in `n_samples`, be the catalogue as large as it may, so there the scale stops growing. A personal table
        is in no mean, and what it learns by heart the common table no longer learns: its rows move at a tenth of the
        rate. Where a rate is named they keep the common table's scale, for such runs were measured with it. And D moves
        through a map that moves with it.
        """
        if name == PERSONAL and self.rates_are_open:
            return 0.1
        if name == "id_embedding":
            return max(30.0, self.n_items / 20)
        return min(float(self.n_items), LARGEST_STEP * self.n_samples)

    def local_optimizer(self, parameters: Mapping[str, Tensor], round: int) -> LocalOptimizer:
        """A client's optimiser, fresh for a round: lr for what is private, shared_lr for its copies of the rest."""
        rates = {n: self.local_rate(n, round) for n in parameters}
        together = [[n for n in phase if n in parameters] for phase in self.phases()]
        _, per_step = self.client.backbone.decay
        return LocalOptimizer(self.recipe.optimizer, parameters, rates, self.recipe.weight_decay, per_step, together)

    def local_rate(self, name: str, round: int, step: int = 0) -> float:
        """The learning rate of a client's parameter after so many steps of a round; both may let it fade."""
        per_round, per_step = self.client.backbone.decay
        return self.rate(name, self.recipe.optimizer) * per_round ** (round - 1) * per_step**step

    def rate(self, name: str, optimizer: str) -> float:
        """The learning rate of one parameter: for a table by item shared_lr times its scale, except under an
        optimiser whose steps do not depend on a gradient's size."""
        r = self.recipe
        backbone = self.client.backbone
        kind: type[Optimizer] = lookup("optimizer", optimizer)
        lr = r.lr or kind.lr or backbone.lr
        if name in self.private and name != PERSONAL:
            return lr
        of_backbone = backbone.shared_lr if r.lr is None and kind.plain else None
        factor = self.open_rate if self.rates_are_open and kind.plain else 1.0
        shared_lr = r.shared_lr or of_backbone or lr * factor
        if not kind.plain or name not in (PERSONAL, "item_table", "id_embedding"):
            return shared_lr
        return shared_lr * (self.id_lr_scale(name) if r.id_lr_scale is None else r.id_lr_scale)

    def server_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser of the server's own steps, along uploaded gradients; None where it only averages."""
        kind = self.recipe.server_optimizer or self.recipe.optimizer
        sent = self.broadcast()
        averaged = {id(sent[n]) for n, part in self.parts.items() if part.upload == "value"}
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.shared.named_parameters():
            if id(parameter) not in averaged:
                by_rate.setdefault(self.rate(name.rpartition(".")[2], kind), []).append(parameter)
        if not by_rate:
            return None
        groups: list[dict[str, Any]] = [{"params": by_rate[lr], "lr": lr} for lr in sorted(by_rate)]
        return lookup("optimizer", kind)().make(groups, self.recipe.weight_decay)
