"""Click models without a sequence: ClickNCF, and FedPA's personal adapters."""

from typing import Any

import torch
from torch import Tensor, nn

from fedlab_mm.registry import register
from fedlab_mm.sequential.base import ClickModel, Output
from fedlab_mm.sequential.layers import Linear
from fedlab_mm.sequential.sequences import Windows

RANK = 4


@register("click backbone", "fedncf")
class ClickNCF(ClickModel):
    """A network on the user's embedding, which the client keeps, and the item's: NCF's tower beside the product of the
    two (He et al. 2017; Perifanis and Efraimidis 2022)."""

    sequential = False

    def build(self) -> None:
        self.match = Linear(self.user_width, self.width)
        self.hidden = Linear(self.user_width + self.width, HALF * 2)
        self.second = Linear(HALF * 2, HALF)
        self.output = Linear(HALF + self.width, 1)

    def read(self, windows: Windows, user: Tensor, group_L: Tensor | None, drop: Any) -> Output:
        shown = self.item_table(windows.item_codes[..., 1:, :])
        who = user.unsqueeze(-2).expand(*shown.shape[:-1], self.user_width)
        tower = torch.relu(self.second(torch.relu(self.hidden(torch.cat([who, shown], dim=-1)))))
        product = self.match(who) * shown
        return Output(self.output(torch.cat([tower, product], dim=-1))[..., 0])


HALF = 32


class Adapter(nn.Module):
    """A shared map beside a client's own of low rank: W x + b + B A x."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.shared = Linear(n_in, n_out)
        self.down, self.up = Linear(n_in, RANK, bias=False), Linear(RANK, n_out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(x) + self.up(self.down(x))


@register("click backbone", "fedpa")
class FedPA(ClickModel):
    """A shared network with adapters of low rank that each client keeps (Zhang et al. 2024).

    The paper adapts a model trained beforehand; here the shared network is trained in the same rounds.
    """

    sequential = False

    def build(self) -> None:
        self.hidden = Adapter(self.user_width + self.width, HALF * 2)
        self.second = Adapter(HALF * 2, HALF)
        self.output = Adapter(HALF, 1)
        self.placement = _Keeps(self.placement)

    def read(self, windows: Windows, user: Tensor, group_L: Tensor | None, drop: Any) -> Output:
        shown = self.item_table(windows.item_codes[..., 1:, :])
        who = user.unsqueeze(-2).expand(*shown.shape[:-1], self.user_width)
        hidden = torch.relu(self.hidden(torch.cat([who, shown], dim=-1)))
        return Output(self.output(torch.relu(self.second(hidden)))[..., 0])


class _Keeps:
    """A placement that leaves adapters with the client too."""

    def __init__(self, placement: Any):
        self.placement = placement

    def __getattr__(self, name: str) -> Any:
        return getattr(self.placement, name)

    def is_private(self, name: str) -> bool:
        return name.split(".")[-2] in ("down", "up") or self.placement.is_private(name)
