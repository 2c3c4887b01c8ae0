"""A click backbone: one layer on what is shown and who looks."""

import torch

from fedlab_mm.registry import register
from fedlab_mm.sequential.base import ClickModel, Output
from fedlab_mm.sequential.layers import Linear


@register("click backbone", "shallow")
class Shallow(ClickModel):
    sequential = False

    def build(self):
        self.output = Linear(self.user_width + self.width, 1)

    def read(self, windows, user, group_L, drop):
        shown = self.item_table(windows.item_codes[..., 1:, :])
        who = user.unsqueeze(-2).expand(*shown.shape[:-1], self.user_width)
        return Output(self.output(torch.cat([who, shown], dim=-1))[..., 0])
