"""A client's optimiser, from torch.optim's formulas, for tensors of any number of clients.

A client lives for a few steps, and thousands of them live at once: state in plain tensors, updated elementwise, is the
same code for one client's [D] and for a chunk's [C, D]. Tests hold it to torch.optim.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class LocalOptimizer:
    """SGD or Adam, in place, with L2 decay added to the gradient.

    Args:
        name: "sgd" or "adam" (β = 0.9, 0.999; ε = 1e-8).
        lr: learning rate of every parameter but those in `lr_of`, which have their own.
    """

    def __init__(self, name: str, lr: float, lr_of: Mapping[str, float] | None = None, weight_decay: float = 0.0):
        self.name, self.lr, self.lr_of, self.weight_decay = name, lr, lr_of or {}, weight_decay
        self.steps = 0
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

    def step(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Move `parameters` in place; the caller hands over the gradients, which may be overwritten."""
        self.steps += 1
        for key, parameter in parameters.items():
            gradient, lr = gradients[key], self.lr_of.get(key, self.lr)
            if self.weight_decay:
                gradient = gradient.add_(parameter, alpha=self.weight_decay)
            if self.name == "sgd":
                parameter.sub_(gradient, alpha=lr)
                continue
            if key not in self.moments:
                self.moments[key] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
            first, second = self.moments[key]
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            spread = (second.sqrt() / (1 - 0.999**self.steps) ** 0.5).add_(1e-8)
            parameter.addcdiv_(first, spread, value=-lr / (1 - 0.9**self.steps))
