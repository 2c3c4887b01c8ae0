"""The user's router: which fused view does this user rely on?

Eq. 3 of FedVLR (Eq. 5 of FedMR): w_u = softmax(φ_u({F_j}, r_u; φ_u)), and Eq. 4 (Eq. 6): F̄^(u) = Σ_j w_uj F_j. What
φ_u reads of the history r_u is the mean, over the user's own training items, of their views side by side.
"""

import torch
from torch import Tensor, nn


class Router(nn.Module):
    """E·D → D → E, a softmax behind it (192 → 64 → 3 in the papers: 12,547 parameters).

    >>> weights_E = Router(n_operators=3, dim=4)(torch.randn(3, 5, 4), torch.full((5,), 0.2)).detach()
    >>> weights_E.shape, round(float(weights_E.sum()), 5)
    (torch.Size([3]), 1.0)
    """

    def __init__(self, n_operators: int, dim: int):
        super().__init__()
        self.hidden = nn.Linear(n_operators * dim, dim)
        self.output = nn.Linear(dim, n_operators)

    def forward(self, views_END: Tensor, own_N: Tensor) -> Tensor:
        """w_u [E]; own_N is 1 / n_u where a row is one of the user's n_u training items, and 0 elsewhere."""
        summary_1K = torch.einsum("n,end->ed", own_N, views_END).flatten()[None]
        return torch.softmax(self.output(torch.relu(self.hidden(summary_1K)))[0], dim=0)


def route(weights_E: Tensor, views_END: Tensor) -> Tensor:
    """F̄ = Σ_j w_j F_j: [N, D].

    >>> route(torch.tensor([0.25, 0.75]), torch.tensor([[[4.0]], [[8.0]]]))
    tensor([[7.]])
    """
    return torch.einsum("e,end->nd", weights_E, views_END)
