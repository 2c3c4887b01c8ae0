"""FedNCF: Perifanis and Efraimidis, "Federated Neural Collaborative Filtering", Knowledge-Based Systems 2022.

The network is NeuMF: He et al., "Neural Collaborative Filtering", WWW 2017, Eq. 12.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from fedlab_mm.backbones.base import Backbone
from fedlab_mm.registry import register


@register("backbone", "fedncf")
class FedNCF(Backbone):
    """r̂_ui = hᵀ [p_u^G ∘ q_i^G ; MLP(p_u^M, q_i^M)]: two user embeddings that stay, two shared item embeddings.

    | NeuMF | here |
    |---|---|
    | p_u^G, p_u^M | `user_gmf`, `user_mlp`, private |
    | q_i^G, q_i^M | the two halves of an item row [2·D] |
    | W_1 … W_L, h | `hidden`, `output`, shared: clients train copies, the server averages them |

    Under fusion the fused vector is added to both of its item embeddings, which stay its own.
    """

    private = frozenset({"user_gmf", "user_mlp"})
    own_table = True
    lr = 0.3  # with shared_lr 0.3 too it stayed below popularity on KU; with lr 1 too, MLP and VBPR diverged
    shared_lr = 1.0

    def __init__(self, dim: int):
        super().__init__()
        self.item_width = 2 * dim
        self.user_gmf = nn.Parameter(0.1 * torch.randn(dim))
        self.user_mlp = nn.Parameter(0.1 * torch.randn(dim))
        widths = [2 * dim, dim, max(dim // 2, 1), max(dim // 4, 1)]  # 128 → 64 → 32 → 16 in the papers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(dim + widths[-1], 1)

    def forward(self, items_NW: Tensor) -> Tensor:
        of_gmf, of_mlp = items_NW.chunk(2, dim=-1)
        x = torch.cat([self.user_mlp.expand_as(of_mlp), of_mlp], dim=-1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        features = torch.cat([self.user_gmf * of_gmf, x], dim=-1)
        return (features * self.output.weight[0]).sum(dim=-1) + self.output.bias

    def lift(self, fused_ND: Tensor) -> Tensor:
        return torch.cat([fused_ND, fused_ND], dim=-1)
