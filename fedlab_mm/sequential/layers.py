"""Layers whose parameters may be one client's, or have a leading axis of clients: then client c's input [c, …] meets
client c's parameters. `torch.func.functional_call` puts them in; nothing else changes, so that a model is written once
for both engines.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """x W^T + b of the last axis: [..., T, n_in] -> [..., T, n_out].

    >>> layer = Linear(3, 2)
    >>> both = {"weight": torch.randn(5, 2, 3), "bias": torch.randn(5, 2)}  # five clients' own
    >>> torch.func.functional_call(layer, both, (torch.randn(5, 7, 3),)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_out, n_in)))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        y = x @ self.weight.mT
        return y if self.bias is None else y + self.bias.unsqueeze(-2)


class LayerNorm(nn.Module):
    """(x − mean) / deviation, then scaled and shifted unless `affine` is off."""

    def __init__(self, width: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.bias is None or self.weight.ndim == 1:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps=1e-6)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normed * self.weight.unsqueeze(-2) + self.bias.unsqueeze(-2)


class RMSNorm(nn.Module):
    """x / root mean square, scaled."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight.ndim == 1 else self.weight.unsqueeze(-2)
        return F.rms_norm(x, x.shape[-1:], eps=1e-6) * weight


class Table(nn.Module):
    """Rows of a table by code: codes [..., A] -> [..., A · width], the rows side by side (Eq. 1)."""

    def __init__(self, n_rows: int, width: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(n_rows, width))

    def forward(self, codes: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return F.embedding(codes, self.weight).flatten(-2)
        client = torch.arange(len(codes), device=codes.device).view(-1, *[1] * (codes.ndim - 1))
        return self.weight[client, codes].flatten(-2)


class ReluFFN(nn.Module):
    """W₂ relu(W₁ x + b₁) + b₂, SASRec's."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.output = Linear(width, width), Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(x)))


class SwiGLU(nn.Module):
    """W₃ (silu(W₁ x) ∘ W₂ x), LLaMA's; no biases."""

    def __init__(self, width: int):
        super().__init__()
        self.gate, self.hidden = Linear(width, width, bias=False), Linear(width, width, bias=False)
        self.output = Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.silu(self.gate(x)) * self.hidden(x))


def heads(x: Tensor, n_heads: int) -> Tensor:
    """[..., T, D] -> [..., heads, T, D / heads]."""
    return x.unflatten(-1, (n_heads, -1)).transpose(-2, -3)


def joined(x: Tensor) -> Tensor:
    """The inverse of `heads`."""
    return x.transpose(-2, -3).flatten(-2)
