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
        summary_K = torch.einsum("n,end->ed", own_N, views_END).flatten()
        product_H = times(summary_K, self.hidden.weight.mT)
        return choose(product_H, self.hidden.bias, self.output.weight, self.output.bias)[0]


def choose(product_H: Tensor, bias_H: Tensor, weight_EH: Tensor, bias_E: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(W₂ relu(W₁ x + b₁) + b₂) from W₁ x: the weights [E], and the hidden units [H]. Leading axes, of clients
    each with a router of its own, are carried along."""
    hidden_H = torch.relu(product_H + bias_H)
    return torch.softmax(times(hidden_H, weight_EH.mT) + bias_E, dim=-1), hidden_H


def times(vector_x: Tensor, matrix_xy: Tensor) -> Tensor:
    """vᵀM, [y]; leading axes are carried along. A row times a matrix: on two cores batched products with a column take
    nine times as long."""
    return torch.matmul(vector_x.unsqueeze(-2), matrix_xy).squeeze(-2)


def route(weights_E: Tensor, views_END: Tensor) -> Tensor:
    """F̄ = Σ_j w_j F_j: [N, D].

    >>> route(torch.tensor([0.25, 0.75]), torch.tensor([[[4.0]], [[8.0]]]))
    tensor([[7.]])
    """
    return torch.einsum("e,end->nd", weights_E, views_END)
