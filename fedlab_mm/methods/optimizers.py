"""Optimisers, and a client's own: torch.optim on plain tensors, of one client [D] or of a chunk of clients [C, D] side
by side, for steps are elementwise."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlab_mm.registry import lookup, register


class Optimizer:
    """How a parameter moves along a gradient. A subclass registers as "optimizer"; its steps must be elementwise.

    Class attributes:
        plain: is a step −η · gradient and nothing else? Then rates scale with a gradient's size, backbones have rates
            of their own, and gradients by hand may be summed before they are applied.
        lr, click_lr: the rate where a recipe names none, of models that rank and of click models; None: the backbone's.
    """

    plain: ClassVar[bool] = False
    lr: ClassVar[float | None] = 3e-3
    click_lr: ClassVar[float] = 0.01

    def make(self, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
        """
        Args:
            groups: of parameters, each with its lr.
        """
        raise NotImplementedError


@register("optimizer", "sgd")
class SGD(Optimizer):
    """θ ← θ − η ∇, as the papers' algorithms state."""

    plain, lr, click_lr = True, None, 0.5

    def make(self, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, weight_decay=weight_decay)


@register("optimizer", "adam")
class Adam(Optimizer):
    """β = 0.9, 0.999; ε = 1e-8; L2 decay is added to the gradient."""

    def make(self, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, weight_decay=weight_decay, fused=True)


class LocalOptimizer:
    """A registered optimiser on parameters by name, with rates that may fade.

    Args:
        name: of the optimiser.
        parameters: by name; moved in place.
        lr_of: name -> learning rate.
        decay: what a parameter's learning rate is multiplied by after each of its steps.
        together: names that step at once, each time all of them; all there are, if left out.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Tensor],
        lr_of: Mapping[str, float],
        weight_decay: float = 0.0,
        decay: float = 1.0,
        together: Sequence[Sequence[str]] | None = None,
    ):
        self.parameters, self.decay = parameters, decay
        self.groups: list[tuple[list[str], dict[str, Any]]] = []
        for names in [list(parameters)] if together is None else together:
            for rate in sorted({lr_of[n] for n in names}):
                alike = [n for n in names if lr_of[n] == rate]
                self.groups.append((alike, {"params": [parameters[n] for n in alike], "lr": rate}))
        self.weight_decay = weight_decay
        groups = [group for _, group in self.groups]
        kind: Optimizer = lookup("optimizer", name)()
        self.optimizer = None if kind.plain or not groups else kind.make(groups, weight_decay)

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Move the parameters that a gradient is given for; those of other tensors are passed over."""
        moving = [(names, group) for names, group in self.groups if names[0] in gradients]
        if self.optimizer is None:  # a plain step is two lines, and torch.optim's bookkeeping took a tenth of a round
            for names, group in moving:
                if self.weight_decay:
                    torch._foreach_mul_(group["params"], 1 - group["lr"] * self.weight_decay)
                torch._foreach_add_(group["params"], [gradients[n] for n in names], alpha=-group["lr"])
        elif moving:
            for names, _ in moving:
                for name in names:
                    self.parameters[name].grad = gradients[name].contiguous()
            self.optimizer.step()
            for names, _ in moving:
                for name in names:
                    self.parameters[name].grad = None
        for _, group in moving:
            group["lr"] *= self.decay
