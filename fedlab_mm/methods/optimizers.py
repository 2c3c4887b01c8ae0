"""A client's optimiser: torch.optim on plain tensors, of one client [D] or of a chunk of clients [C, D] side by side,
for its steps are elementwise."""

from collections.abc import Mapping

import torch
from torch import Tensor


class LocalOptimizer:
    """SGD or Adam (β = 0.9, 0.999; ε = 1e-8), with L2 decay added to the gradient.

    Args:
        name: "sgd" or "adam".
        lr_of: name -> learning rate.
        decay: what a parameter's learning rate is multiplied by after each of its steps.
    """

    def __init__(self, name: str, lr_of: Mapping[str, float], weight_decay: float = 0.0, decay: float = 1.0):
        self.kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
        self.lr_of, self.weight_decay, self.decay = lr_of, weight_decay, decay
        self.own: dict[str, torch.optim.Optimizer] = {}

    def step(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Move `parameters` in place, the same tensors at every step; `gradients` holds one for each."""
        for key, parameter in parameters.items():
            if key not in self.own:
                self.own[key] = self.kind([parameter], lr=self.lr_of[key], weight_decay=self.weight_decay, fused=True)
            parameter.grad = gradients[key].contiguous()
            self.own[key].step()
            parameter.grad = None
            self.own[key].param_groups[0]["lr"] *= self.decay
