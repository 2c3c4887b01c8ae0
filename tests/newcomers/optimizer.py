"""Adagrad."""

import torch

from fedlab_mm.methods.optimizers import Optimizer
from fedlab_mm.registry import register


@register("optimizer", "adagrad")
class Adagrad(Optimizer):
    lr = 0.05

    def make(self, groups, weight_decay):
        return torch.optim.Adagrad(groups, weight_decay=weight_decay)
