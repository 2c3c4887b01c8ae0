"""A client's optimiser: torch.optim on plain tensors, of one client [D] or of a chunk of clients [C, D] side by side,
for its steps are elementwise."""

from collections.abc import Mapping
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
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Tensor],
        lr_of: Mapping[str, float],
        weight_decay: float = 0.0,
        decay: float = 1.0,
    ):
        self.parameters, self.decay = parameters, decay
        self.groups: dict[str, dict[str, Any]] = {n: {"params": [p], "lr": lr_of[n]} for n, p in parameters.items()}
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
        self.optimizer = kind(list(self.groups.values()), weight_decay=weight_decay, fused=True) if parameters else None

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Move the parameters that a gradient is given for; those of other tensors are passed over."""
        moved = [n for n in gradients if n in self.parameters]
        if self.optimizer is None or not moved:
            return
        for name in moved:
            self.parameters[name].grad = gradients[name].contiguous()
        self.optimizer.step()
        for name in moved:
            self.parameters[name].grad = None
            self.groups[name]["lr"] *= self.decay
