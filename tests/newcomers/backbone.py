"""A backbone with a setting: the dot product, squeezed."""

from dataclasses import dataclass

import torch

from fedlab_mm.backbones import LinearBackbone
from fedlab_mm.registry import register
from fedlab_mm.settings import POSITIVE, Settings, setting


@register("backbone", "squeezed")
class Squeezed(LinearBackbone):
    """r̂ = height · tanh(θ·x + b)."""

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            height: the largest logit.
        """

        height: float = setting(3.0, POSITIVE)

    def forward(self, items_NW):
        return self.recipe.height * torch.tanh(super().forward(items_NW))
