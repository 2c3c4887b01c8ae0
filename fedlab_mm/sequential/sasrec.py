"""FedSASRec: self-attention over the sequence, learnt positions (Kang and McAuley 2018)."""

from torch import Tensor, nn
from torch.nn import functional as F

from fedlab_mm.registry import register
from fedlab_mm.sequential.base import Block, Transformer
from fedlab_mm.sequential.layers import LayerNorm, Linear, heads, joined


class SASRecBlock(Block):
    """q = norm(x); x ← norm(q + Attention(q, x, x)); x ← x + FFN(x)."""

    def __init__(self, width, recipe, place):
        super().__init__(width, recipe, place)
        self.before, self.after = LayerNorm(width), LayerNorm(width)
        self.query, self.value, self.out = (Linear(width, width) for _ in range(3))
        self.key = Linear(width, width, bias=False)  # a bias here moves all scores of a query alike: softmax undoes it

    def attend(self, x: Tensor, position: Tensor) -> Tensor:
        asked = self.before(x)
        q, k, v = (heads(f(y), self.n_heads) for f, y in ((self.query, asked), (self.key, x), (self.value, x)))
        return self.after(asked + self.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))))


@register("click backbone", "fedsasrec")
class FedSASRec(Transformer):
    block = SASRecBlock
    positions = True

    def norm(self) -> nn.Module:
        return LayerNorm(self.width)
