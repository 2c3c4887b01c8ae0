"""Fusion operators: many signals of an item in, one view of it out. And the bank that stacks their views.

The papers' Eq. 2 (FedVLR) and Eq. 4 (FedMR): F_j = g_j(V, C, D; γ_j).

| paper | here |
|---|---|
| V, C | `Inputs`: "image", "text", any further modality beside them |
| D | `Bank.id_embedding`, [I, id_dim] |
| g_j, γ_j | an `Operator` and its parameters |
| F_j | `views_EID[j]` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab_mm.data.build import CONSTANT
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import lookup, register

COARSE = 1e-4  # a spread below so much of a column's size is measured in double
SQUARES = 1e15  # and one above this, for its squares, summed over items, would leave float32


class Operator(nn.Module):
    """One way to fuse: `forward(signals_MID) -> view_ID`.

    A subclass takes the number of signals M and the latent width D, works for any M, and registers as "operator".
    """

    def __init__(self, n_signals: int = 0, dim: int = 0):
        super().__init__()

    def forward(self, signals_MID: Tensor) -> Tensor:
        raise NotImplementedError("an operator needs forward(signals_MID), which gives one view [I, D]")


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


@register("operator", "attention")
class Attention(Operator):
    """Σ_m a_m z_m with a = softmax_m(v · tanh(A z_m + a)): each item decides how much each of its signals counts."""

    def __init__(self, n_signals: int, dim: int):
        super().__init__(n_signals, dim)
        self.hidden = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)

    def forward(self, signals_MID: Tensor) -> Tensor:
        attention_MI1 = torch.softmax(self.query(torch.tanh(self.hidden(signals_MID))), dim=0)
        return (attention_MI1 * signals_MID).sum(dim=0)


SOLO = "solo:"  # "solo:image" is the view that is one signal alone, so that a router can choose a signal outright


def expand(operators: Sequence[str], signals: Sequence[str]) -> list[str]:
    """The views that a recipe's operators stand for: "solo" is a solo view of each signal.

    Raises:
        FedlabError: a solo view of a signal that is not there.

    >>> expand(["sum", "solo"], ["id", "image"])
    ['sum', 'solo:id', 'solo:image']
    """
    views: list[str] = []
    for name in operators:
        views += [f"{SOLO}{s}" for s in signals] if name == "solo" else [name]
    for name in views:
        if name.startswith(SOLO) and name.removeprefix(SOLO) not in signals:
            raise FedlabError(f"operator '{name}': there is no such signal here; there are: {', '.join(signals)}")
    if len(set(views)) < len(views):
        raise FedlabError(f"operators={tuple(operators)} names one view twice")
    return views


def signals_of(modalities: Sequence[str], without: Sequence[str]) -> list[str]:
    """The signals that fusion has: the item ID and every modality, but for those left out.

    Raises:
        FedlabError: a signal to leave out is not there, or none is left.

    >>> signals_of(["image", "text"], without=["image"])
    ['id', 'text']
    """
    every = ["id", *modalities]
    for name in without:
        if name not in every:
            raise FedlabError(f"without: there is no signal '{name}' to leave out; there are: {', '.join(every)}")
    left = [name for name in every if name not in without]
    if not left:
        raise FedlabError(f"without={tuple(without)} leaves out every signal: keep at least one")
    return left


_PLAIN = nn.ModuleDict()


def part_name(signal: str) -> str:
    """What a signal's module is called among others, and so how its parameters' names begin: as the signal, but where
    torch would refuse that. There a dot parts names, and `forward` and `keys` are methods.

    >>> part_name("image"), part_name("clip.b32"), part_name("forward")
    ('image', 'signal:clip%2Eb32', 'signal:forward')
    """
    if "." not in signal and not hasattr(_PLAIN, signal):
        return signal
    return "signal:" + signal.replace("%", "%25").replace(".", "%2E")  # no two signals become one


def buffer_name(modality: str) -> str:
    """What a modality's features are called within `Inputs`."""
    return f"feature {part_name(modality)}"


def map_name(signal: str) -> str:
    """What a signal's linear map is called within a `Bank`."""
    return f"maps.{part_name(signal)}"


class Inputs(nn.Module):
    """The modalities' features as fusion reads them: held as buffers, never trained, never saved.

    Args:
        features: modality -> float [I, d_m].
        scale: standardise each column and multiply by this; None leaves features as they are.

    Raises:
        FedlabError: modalities of unequal numbers of rows.
    """

    def __init__(self, features: Mapping[str, Tensor], scale: float | None):
        super().__init__()
        rows = {m: len(f) for m, f in features.items()}
        if len(set(rows.values())) > 1:
            raise FedlabError(f"features have unequal numbers of rows: {rows}; each needs one row per item")
        self.standards = {m: Standard.of(feature, scale) for m, feature in features.items()}
        for modality, feature in features.items():
            self.register_buffer(buffer_name(modality), self.standards[modality](feature), persistent=False)

    def scaled(self, modality: str, feature: Tensor) -> Tensor:
        """Features of any items by the catalogue's own moments: a new item does not move the others."""
        return self.standards[modality](feature).to(self.get_buffer(buffer_name(modality)))

    def forward(self) -> dict[str, Tensor]:
        return {m: self.get_buffer(buffer_name(m)) for m in self.standards}


@dataclass(frozen=True)
class Standard:
    """(x − centre) · factor of each column, by the moments of the catalogue.

    Most columns are standardised in the precision that they come in. Where single precision would lose them, because
    their spread is small beside their size, or their squares leave its range, it is done in double.

    Attributes:
        centre_d, factor_d: in the features' precision; fine_j: the columns taken in double, centre_j, factor_j theirs.
            A constant column becomes zero, and what differs from it in a new item is not divided.
    """

    centre_d: Tensor
    factor_d: Tensor
    fine_j: Tensor
    centre_j: Tensor
    factor_j: Tensor

    @classmethod
    def of(cls, feature: Tensor, scale: float | None) -> "Standard":
        """Of a modality's features [I, d]; `scale` as for `Inputs`."""
        centre_d, spread_d = moments(feature)
        none = torch.zeros(0, dtype=torch.long)
        if scale is None:
            return cls(torch.zeros_like(centre_d), torch.ones_like(spread_d), none, centre_d[:0], spread_d[:0])
        if feature.is_meta:  # counting, without any content
            return cls(centre_d, scale / spread_d, none, centre_d[:0], spread_d[:0])
        safe_d = (spread_d > COARSE * feature.abs().amax(dim=0)) & (spread_d > 1e-6) & (spread_d < SQUARES)
        fine_j = (~safe_d).nonzero()[:, 0]
        exact = feature[:, fine_j].double()
        size_j = exact.abs().amax(dim=0).clamp(min=torch.finfo(exact.dtype).tiny)
        centre_j, spread_j = moments(exact / size_j)
        constant_j = spread_j <= CONSTANT
        centre_j = torch.where(constant_j, exact[0], centre_j * size_j)
        factor_j = scale / torch.where(constant_j, 1, spread_j * size_j)
        return cls(centre_d, scale / torch.where(safe_d, spread_d, 1), fine_j, centre_j, factor_j)

    def __call__(self, feature: Tensor) -> Tensor:
        feature = feature.to(self.centre_d.device)
        standard = (feature - self.centre_d) * self.factor_d
        if len(self.fine_j):
            fine = (feature[:, self.fine_j].double() - self.centre_j) * self.factor_j
            standard[:, self.fine_j] = fine.to(standard.dtype)
        return standard


class Bank(nn.Module):
    """All that fused views are made of: the ID embedding D, a linear map of each signal to D dimensions, the operators.

    Args:
        operators: names, in the order of the views; "solo" stands for a solo view of each signal.
        widths: signal -> width of its inputs, in order; "id" first where D takes part.
        n_items, dim: sizes of D and of the latent space.
        init_scale: standard deviation of the initial D.

    >>> bank = Bank(["sum", "gate"], {"id": 6, "image": 7}, n_items=5, dim=4)
    >>> bank({"id": bank.id_embedding, "image": torch.randn(5, 7)}).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self, operators: Sequence[str], widths: Mapping[str, int], n_items: int, dim: int, init_scale: float = 0.1
    ):
        super().__init__()
        if "id" in widths:
            self.id_embedding = nn.Parameter(init_scale * torch.randn(n_items, widths["id"]))
        self.names = tuple(widths)
        self.maps = nn.ModuleDict({part_name(signal): nn.Linear(width, dim) for signal, width in widths.items()})
        self.views = expand(operators, list(widths))
        self.operators = nn.ModuleList(
            nn.Identity() if name.startswith(SOLO) else lookup("operator", name)(len(widths), dim)
            for name in self.views
        )

    def signals(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """z_m = W_m x_m + b_m for the ID embedding and each modality, in that order: [M, N, D]."""
        return torch.stack(
            [linear(inputs[signal]) for signal, linear in zip(self.names, self.maps.values(), strict=True)]
        )

    def forward(self, inputs: Mapping[str, Tensor], signals_MND: Tensor | None = None) -> Tensor:
        """Views [E, N, D] of the items whose signals these are: signal -> [N, width]; or already mapped."""
        if signals_MND is None:
            signals_MND = self.signals(inputs)
        position = {signal: m for m, signal in enumerate(self.names)}
        views = []
        for name, operator in zip(self.views, self.operators, strict=True):
            if name.startswith(SOLO):
                views.append(signals_MND[position[name.removeprefix(SOLO)]])
                continue
            view_ND = operator(signals_MND)
            if not isinstance(view_ND, Tensor) or view_ND.shape != signals_MND.shape[1:]:
                got = tuple(view_ND.shape) if isinstance(view_ND, Tensor) else type(view_ND).__name__
                raise FedlabError(
                    f"operator '{name}' made {got} of signals {tuple(signals_MND.shape)}: its forward must give one "
                    f"view of the items, a tensor {tuple(signals_MND.shape[1:])}"
                )
            views.append(view_ND)
        return torch.stack(views)


def moments(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, [d] each.

    >>> moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    (tensor([2., 5.]), tensor([1., 0.]))
    """
    centre = feature.mean(dim=0)
    return centre, (feature - centre).square().mean(dim=0).sqrt()
