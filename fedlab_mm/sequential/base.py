"""What all click models share: embeddings (Eq. 1), blocks (Eq. 2), the prediction layer (Eq. 3), the client's loss.

| paper (MRFF) | here |
|---|---|
| E^m, i_emb, c_emb | `item_table`, its rows side by side |
| u_emb | `user`: rows of `user_table`, or a vector that the client keeps |
| Attention, FFN | `Block.attend`, and the feed-forward layer that `ffn` makes |
| L, N | `recipe.blocks`, `recipe.groups` |
| f_i^l, p_i^l | `share_LG`, `probability_LG` |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import ClickLog
from fedlab_mm.registry import lookup
from fedlab_mm.sequential.layers import Linear, ReluFFN, Table
from fedlab_mm.sequential.sequences import Windows
from fedlab_mm.settings import Settings

HIDDEN = 32  # of the prediction layer


@dataclass
class Routing:
    """Which group each block sends each client to.

    Attributes:
        group_L: int64 [..., L]; probability_LG: [..., L, G].
    """

    group_L: Tensor
    probability_LG: Tensor


@dataclass
class Output:
    """logits: [..., T], of a click on what is shown; routing: under MRFF."""

    logits: Tensor
    routing: Routing | None = None


class Block(nn.Module):
    """One transformer block. A subclass gives `attend` and the kind of feed-forward layer.

    Args:
        place: of the feed-forward layers: makes the module that a block calls as `ffn(x, user, windows, group)`.
    """

    make_ffn: ClassVar[type[nn.Module]] = ReluFFN

    def __init__(self, width: int, recipe: Recipe, place: Callable[[Callable[[int], nn.Module], int], nn.Module]):
        super().__init__()
        self.n_heads = recipe.heads
        self.ffn = place(type(self).make_ffn, width)

    def attend(self, x: Tensor, position: Tensor) -> Tensor:
        """[..., T, D], what is real only: causal, each showing from itself and those before."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, user: Tensor, windows: Windows, group: Tensor | None, drop: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        x = self.attend(x, windows.position)
        change, routed = self.ffn(self.normed(x), user, windows, group)
        return x + drop(change), routed

    def normed(self, x: Tensor) -> Tensor:
        return x


class Plain(nn.Module):
    """One feed-forward layer that all clients share: no MRFF."""

    def __init__(self, make: Callable[[int], nn.Module], width: int):
        super().__init__()
        self.shared = make(width)

    def forward(self, x: Tensor, user: Tensor, windows: Windows, group: Tensor | None) -> tuple[Tensor, None]:
        return self.shared(x), None


class ClickModel(nn.Module):
    """Base of the click backbones: `forward(windows)` -> logits of a click on each showing.

    A subclass registers as "click backbone". Its parameters may be one client's or a chunk's, side by side: it makes
    them in `build`, of the layers in `fedlab_mm.sequential.layers`, and keeps no buffers.

    Attributes:
        private: names of the parameters that stay with a client; by_group: names of those with a leading axis of
            groups, of which a client uploads the group's that it was sent to.
        Params: the class of its own settings; a recipe of it has them.

    Args:
        recipe: widths, blocks, groups; attributes: of the click log.
    """

    sequential: ClassVar[bool] = True
    aggregation: ClassVar[str] = "equal"
    Params: ClassVar[type[Settings]] = Settings

    def __init__(self, recipe: Recipe, attributes: Mapping[str, Mapping[str, int]], placement: Any):
        super().__init__()
        self.recipe, self.placement = recipe, placement
        n_user, n_item = (len(attributes[side]) for side in ("user", "item"))
        if not n_item:
            raise FedlabError("click prediction needs item attributes, and this log has none")
        self.width, self.user_width = n_item * recipe.attribute_dim, n_user * recipe.attribute_dim
        if self.width % recipe.heads:
            raise FedlabError(f"heads={recipe.heads}: must divide the width of a showing, {self.width}")
        if placement.keeps_user and not self.sequential:
            raise FedlabError(
                f"method 'mrff' puts its layers into a transformer's blocks, and '{recipe.backbone}' has none: take "
                "fedsasrec, fedhstu or fedllama"
            )
        self.user_table = Table(sum(attributes["user"].values()), recipe.attribute_dim, recipe.init_scale)
        self.item_table = Table(sum(attributes["item"].values()), recipe.attribute_dim, recipe.init_scale)
        if recipe.history == "clicks" and self.sequential:
            self.clicked = Table(2, self.width, recipe.init_scale)
        self.build()
        keeps = placement.keeps_user or not self.sequential
        if keeps:
            self.user = nn.Parameter(torch.zeros(self.user_width))
            self.user_table.requires_grad_(False)
        self.private = [n for n, _ in self.named_parameters() if n == "user" or self.placement.is_private(n)]
        self.by_group = [n for n, _ in self.named_parameters() if self.placement.is_by_group(n)]
        self.shared_names = [n for n, p in self.named_parameters() if n not in self.private and p.requires_grad]

    def build(self) -> None:
        """Make the layers between embeddings and prediction, and the prediction layer."""
        raise NotImplementedError

    def read(self, windows: Windows, user: Tensor, group_L: Tensor | None, drop: Any) -> Output:
        """Logits from windows, and from the user's embedding, [..., D']."""
        raise NotImplementedError

    def initial_user(self, user_codes: Tensor) -> Tensor:
        """What each client's own embedding begins as: its attributes' rows, [U, D']."""
        return self.user_table(user_codes).detach()

    def forward(self, windows: Windows, group_L: Tensor | None = None, drop: Any = None) -> Output:
        """
        Args:
            group_L: the groups that a client was sent to, where that is settled; its group-level parameters are then
                those groups' alone. Without it the gates choose.
            drop: site, tensor -> the tensor with some of it dropped; None for none.
        """
        user = self.user if hasattr(self, "user") else self.user_table(windows.user_codes)
        return self.read(windows, user, group_L, drop or (lambda site, x: x))

    def tokens(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """What was shown before, with what became of it if the recipe says so; and what is shown now: [..., T, D]."""
        items = self.item_table(windows.item_codes)
        before = items[..., :-1, :]
        if hasattr(self, "clicked"):
            before = before + self.clicked(windows.click[..., :-1, None].long())
        return before * windows.started.unsqueeze(-1), items[..., 1:, :]

    def loss(self, output: Output, windows: Windows, share_LG: Tensor | None) -> Tensor:
        """L_u = L_rec + α · L_balance, [...]: Eqs. 7 and 8.

        Args:
            share_LG: f, the share of clients in each block's groups, as the server counted them in the round before;
                None in the first.
        """
        each = F.binary_cross_entropy_with_logits(output.logits, windows.label, reduction="none")
        loss = (each * windows.real).sum(dim=-1) / windows.real.sum(dim=-1)
        if output.routing is not None and share_LG is not None and self.recipe.balance:
            n_groups = share_LG.shape[-1]
            balance = n_groups * (share_LG * output.routing.probability_LG).sum(dim=(-1, -2))
            loss = loss + self.recipe.balance * balance
        return loss


class Transformer(ClickModel):
    """A stack of blocks over what was shown before, and a prediction from its end, the user and what is shown now."""

    block: ClassVar[type[Block]]
    positions: ClassVar[bool] = False  # learnt, added to the tokens

    def build(self) -> None:
        r = self.recipe
        if self.positions:
            self.position_table = Table(r.max_length, self.width, r.init_scale)
        place = self.placement.layer(r, self.user_width)
        self.blocks = nn.ModuleList(type(self).block(self.width, r, place) for _ in range(r.blocks))
        self.last = self.norm()
        self.hidden = Linear(2 * self.width + self.user_width, HIDDEN)
        self.output = Linear(HIDDEN, 1)

    def norm(self) -> nn.Module:
        return nn.Identity()

    def read(self, windows: Windows, user: Tensor, group_L: Tensor | None, drop: Any) -> Output:
        x, shown = self.tokens(windows)
        if self.positions:
            x = x + self.position_table(windows.position[..., None])
        x = drop("tokens", x)
        routed = []
        for n, block in enumerate(self.blocks):
            group = None if group_L is None else group_L[..., n]
            x, route = block(x, user, windows, group, lambda y, n=n: drop(f"block {n}", y))
            routed.append(route)
        who = user.unsqueeze(-2).expand(*shown.shape[:-1], self.user_width)
        hidden = torch.relu(self.hidden(torch.cat([self.last(x), who, shown], dim=-1)))
        logits = self.output(hidden)[..., 0]
        if routed[0] is None:
            return Output(logits)
        groups, probabilities = zip(*routed, strict=True)
        return Output(logits, Routing(torch.stack(groups, dim=-1), torch.stack(probabilities, dim=-2)))


def click_model(recipe: Recipe, log: ClickLog) -> ClickModel:
    """The model of a recipe, in its common initial state, which depends on the seed alone."""
    backbone = lookup("click backbone", recipe.backbone)
    placement = lookup("click method", recipe.method)()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model: ClickModel = backbone(recipe, log.attributes, placement).to(recipe.dtype)
    _check(model, recipe.backbone)
    return model.eval()


def _check(model: ClickModel, name: str) -> None:
    """That both engines can train it.

    Raises:
        FedlabError: a layer or parameter of a kind, or in a place, that an engine would not do justice.
    """
    for path, module in model.named_modules():
        has_own = next(module.parameters(recurse=False), None) is not None
        torchs = type(module).__module__.startswith("torch.nn")
        if (torchs and has_own) or isinstance(module, nn.modules.dropout._DropoutNd):
            raise FedlabError(
                f"backbone '{name}': {path} is torch's {type(module).__name__}; take the layers of "
                "fedlab_mm.sequential.layers, which take one client's weights or a chunk's, and the recipe's dropout"
            )
        if next(module.buffers(recurse=False), None) is not None:
            raise FedlabError(f"backbone '{name}': {path or 'it'} has a buffer, which no client's state would hold")
    known = {*model.shared_names, *model.private}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad and path not in known:
            raise FedlabError(f"backbone '{name}': {path} would not be trained: make it in `build`, not in `__init__`")
        if path in model.by_group and not path.startswith("blocks."):
            raise FedlabError(f"backbone '{name}': {path}: layers of groups stand in `blocks`, a ModuleList of blocks")


def count_click_parameters(recipe: Recipe, attributes: Mapping[str, Mapping[str, int]]) -> pd.Series:
    """How many numbers each part of a click model has on a client, and in all: of the groups' layers those of one
    group, which is what a client computes with (MRFF's Table 3 counts so).

    Args:
        attributes: of the click log, "user" and "item" -> attribute -> codes.

    >>> count_click_parameters(Recipe(backbone="fedllama", method="none"), {"user": {"age": 3}, "item": {"kind": 5}})
    user_table      24
    item_table      40
    blocks         928
    last             8
    hidden         800
    output          33
    total         1833
    dtype: int64
    """
    with torch.device("meta"):
        model: ClickModel = lookup("click backbone", recipe.backbone)(
            recipe, attributes, lookup("click method", recipe.method)()
        )
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        n = parameter.numel() // (recipe.groups or 1) if name in model.by_group else parameter.numel()
        parts[part] = parts.get(part, 0) + n
    return pd.Series({**parts, "total": sum(parts.values())})
