"""Fusion operators: many signals of an item in, one view of it out. And the bank that stacks their views.

The papers' Eq. 2 (FedVLR) and Eq. 4 (FedMR): F_j = g_j(V, C, D; γ_j).

| paper | here |
|---|---|
| V, C | `features["image"]`, `features["text"]`, any further modality beside them |
| D | `Bank.id_embedding`, [I, id_dim] |
| g_j, γ_j | an `Operator` and its parameters |
| F_j | `views_EID[j]` |
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlab_mm.registry import lookup, register


class Operator(nn.Module):
    """One way to fuse: `forward(signals_MID) -> view_ID`.

    A subclass takes the number of signals M and the latent width D, works for any M, and registers as "operator".
    """

    def __init__(self, n_signals: int, dim: int):
        super().__init__()

    def forward(self, signals_MID: Tensor) -> Tensor:
        raise NotImplementedError


@register("operator", "sum")
class Sum(Operator):
    """Σ_m z_m; no parameters.

    >>> Sum(2, 3)(torch.ones(2, 5, 3)).shape, Sum(2, 3)(torch.ones(2, 5, 3))[0]
    (torch.Size([5, 3]), tensor([2., 2., 2.]))
    """

    def forward(self, signals_MID: Tensor) -> Tensor:
        return signals_MID.sum(dim=0)


@register("operator", "mlp")
class MLP(Operator):
    """W₂ relu(W₁ [z_1; …; z_M] + b₁) + b₂, from M·D through 2·D to D (192 → 128 → 64 in the papers)."""

    def __init__(self, n_signals: int, dim: int):
        super().__init__(n_signals, dim)
        self.hidden = nn.Linear(n_signals * dim, 2 * dim)
        self.output = nn.Linear(2 * dim, dim)

    def forward(self, signals_MID: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(torch.cat(list(signals_MID), dim=-1))))


@register("operator", "gate")
class Gate(Operator):
    """W [σ(A_1 z_1 + a_1) ∘ z_1; …; σ(A_M z_M + a_M) ∘ z_M] + b: each signal opens or closes its own dimensions."""

    def __init__(self, n_signals: int, dim: int):
        super().__init__(n_signals, dim)
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_signals))
        self.output = nn.Linear(n_signals * dim, dim)

    def forward(self, signals_MID: Tensor) -> Tensor:
        opened = [torch.sigmoid(gate(z)) * z for gate, z in zip(self.gates, signals_MID, strict=True)]
        return self.output(torch.cat(opened, dim=-1))


class Bank(nn.Module):
    """All that fused views are made of: the ID embedding D, a linear map of each signal to D dimensions, the operators.

    Args:
        operators: names, in the order of the views.
        features: modality -> float [I, d_m]; held as buffers, never trained, never saved.
        n_items, id_dim, dim: sizes of D and of the latent space.
        feature_scale: standardise each feature column and multiply by this; None leaves features as they are.
        init_scale: standard deviation of the initial D.

    >>> bank = Bank(["sum", "gate"], {"image": torch.randn(5, 7)}, n_items=5, id_dim=6, dim=4)
    >>> bank().shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        operators: Sequence[str],
        features: Mapping[str, Tensor],
        n_items: int,
        id_dim: int,
        dim: int,
        feature_scale: float | None = None,
        init_scale: float = 0.1,
    ):
        super().__init__()
        self.modalities = tuple(features)
        for modality, feature in features.items():
            if feature_scale is not None:
                feature = feature_scale * standardise(feature)
            self.register_buffer(f"feature_{modality}", feature, persistent=False)
        self.id_embedding = nn.Parameter(init_scale * torch.randn(n_items, id_dim))
        widths = {"id": id_dim} | {m: f.shape[1] for m, f in features.items()}
        self.maps = nn.ModuleDict({signal: nn.Linear(width, dim) for signal, width in widths.items()})
        self.operators = nn.ModuleList(lookup("operator", name)(len(widths), dim) for name in operators)

    def signals(self) -> Tensor:
        """z_m = W_m x_m + b_m for the ID embedding and each modality, in that order: [M, I, D]."""
        inputs = {"id": self.id_embedding} | {m: self.get_buffer(f"feature_{m}") for m in self.modalities}
        return torch.stack([self.maps[signal](x) for signal, x in inputs.items()])

    def forward(self) -> Tensor:
        """The views of all items, [E, I, D]."""
        signals_MID = self.signals()
        return torch.stack([operator(signals_MID) for operator in self.operators])


def standardise(feature: Tensor) -> Tensor:
    """Columns with mean 0 and standard deviation 1; a constant column becomes 0.

    >>> standardise(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    centred = feature - feature.mean(dim=0)
    spread = centred.square().mean(dim=0).sqrt()
    return centred / torch.where(spread > 1e-6, spread, 1)
