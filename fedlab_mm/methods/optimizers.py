"""A client's optimiser: torch.optim on plain tensors, of one client [D] or of a chunk of clients [C, D] side by side,
for its steps are elementwise."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class LocalOptimizer:
    """SGD or Adam (β = 0.9, 0.999; ε = 1e-8), with L2 decay added to the gradient.

    Args:
        name: "sgd" or "adam".
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
        adam = name == "adam" and groups
        self.optimizer = torch.optim.Adam(groups, weight_decay=weight_decay, fused=True) if adam else None

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Move the parameters that a gradient is given for; those of other tensors are passed over."""
        moving = [(names, group) for names, group in self.groups if names[0] in gradients]
        if self.optimizer is None:  # SGD is two lines, and torch.optim's bookkeeping took a tenth of a round
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
