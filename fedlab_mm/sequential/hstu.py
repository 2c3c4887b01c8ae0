"""FedHSTU: pointwise attention, SiLU in place of softmax, with relative bias and a gate (Zhai et al. 2024)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlab_mm.registry import register
from fedlab_mm.sequential.base import Block, Transformer
from fedlab_mm.sequential.layers import LayerNorm, Linear, SwiGLU, heads, joined


class HSTUBlock(Block):
    """u, v, q, k = split(silu(W norm(x))); x ← x + W_o (norm(A v) ∘ u) with A = silu(q k^T + bias of the distance) / T;
    x ← x + FFN(norm(x)).

    T, by which the sum is scaled, is the longest sequence: so that what pads a chunk does not count.
    """

    make_ffn = SwiGLU

    def __init__(self, width, recipe, place):
        super().__init__(width, recipe, place)
        self.norm = LayerNorm(width, affine=False)
        self.project = Linear(width, 4 * width, bias=False)
        self.out = Linear(width, width)
        self.longest = recipe.max_length
        self.distance = nn.Parameter(torch.zeros(2 * self.longest - 1))

    def attend(self, x: Tensor, position: Tensor) -> Tensor:
        gate, value, query, key = F.silu(self.project(self.norm(x))).chunk(4, dim=-1)
        q, k, v = (heads(y, self.n_heads) for y in (query, key, value))
        length = x.shape[-2]
        step = torch.arange(length, device=x.device)
        apart = self.longest - 1 + step[:, None] - step
        bias = self.distance[..., apart]
        score = q @ k.mT + (bias if bias.ndim == 2 else bias.unsqueeze(-3))
        causal = (step[:, None] >= step).to(x)
        attended = joined((F.silu(score) * causal / self.longest) @ v)
        return x + self.out(self.norm(attended) * gate)

    def normed(self, x: Tensor) -> Tensor:
        return self.norm(x)


@register("click backbone", "fedhstu")
class FedHSTU(Transformer):
    block = HSTUBlock

    def norm(self) -> nn.Module:
        return LayerNorm(self.width, affine=False)
