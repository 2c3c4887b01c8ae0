"""FedLLaMA: RMSNorm, rotary positions, SwiGLU (Touvron et al. 2023)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register
from fedlab_mm.sequential.base import Block, Transformer
from fedlab_mm.sequential.layers import Linear, RMSNorm, SwiGLU, heads, joined

BASE = 10_000.0


class LlamaBlock(Block):
    """x ← x + Attention(norm(x)); x ← x + FFN(norm(x)); no biases."""

    make_ffn = SwiGLU

    def __init__(self, width, recipe, place):
        super().__init__(width, recipe, place)
        if width // recipe.heads % 2:
            raise FedlabError(
                f"heads={recipe.heads}: rotary positions turn pairs of coordinates, and a head would have "
                f"{width // recipe.heads} of them, an odd number"
            )
        self.before, self.after = RMSNorm(width), RMSNorm(width)
        self.query, self.key, self.value, self.out = (Linear(width, width, bias=False) for _ in range(4))

    def attend(self, x: Tensor, position: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (heads(f(y), self.n_heads) for f in (self.query, self.key, self.value))
        q, k = rotated(q, position), rotated(k, position)
        return x + self.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))

    def normed(self, x: Tensor) -> Tensor:
        return self.after(x)


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions: pairs of coordinates turned by an angle that grows with the position (Su et al. 2021), so that
    q·k depends on the distance alone. x: [..., heads, T, d], d even; position: [..., T].

    >>> q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    >>> near = rotated(q, torch.tensor([3])) @ rotated(k, torch.tensor([1])).mT
    >>> far = rotated(q, torch.tensor([33])) @ rotated(k, torch.tensor([31])).mT
    >>> bool(torch.isclose(near, far))
    True
    """
    half = x.shape[-1] // 2
    speed = BASE ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = (position.to(x.dtype)[..., None] * speed).unsqueeze(-3)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], dim=-1)


@register("click backbone", "fedllama")
class FedLLaMA(Transformer):
    block = LlamaBlock

    def norm(self) -> nn.Module:
        return RMSNorm(self.width)
