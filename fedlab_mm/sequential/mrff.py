"""MRFF: in each block a feed-forward layer of the user's own beside one of its group (Eqs. 4, 5 and 7).

"Multifaceted User Modeling in Recommendation: A Federated Foundation Models Approach".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedlab_mm.draws import keys, uniforms
from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register
from fedlab_mm.sequential.base import Plain
from fedlab_mm.sequential.layers import Linear
from fedlab_mm.sequential.sequences import Windows
from fedlab_mm.settings import NOT_NEGATIVE, POSITIVE, Settings, at_least, member_of, setting

GROUPS = 0x67726F  # of the draws of gate="random"


@register("click method", "none")
class NoGroups:
    """No personal layers: every client trains a copy of one model."""

    Params: ClassVar[type[Settings]] = Settings
    keeps_user = False

    def layer(self, recipe: Recipe, user_width: int) -> Callable[[Callable[[int], nn.Module], int], nn.Module]:
        return Plain

    def is_private(self, name: str) -> bool:
        return False

    def is_by_group(self, name: str) -> bool:
        return False


@register("click method", "mrff")
class MRFF(NoGroups):
    """FFN_u(x) + FFN_g(x): the client keeps its embedding and FFN_u; g is the group its gate sends it to; what groups
    share is averaged within the group, and all else over all."""

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            groups: their number.
            gate: "plain"; "weighted": a group's layer counts by its probability; "through": the balance loss teaches
                the layers below the gate too; or "random": each user's group is drawn, and stays.
            gate_lr: the rate of gates, which move by plain SGD whatever moves the rest: the balance loss answers a
                round late, and in larger steps all clients change groups at once.
            balance: α of the balance loss (Eq. 8).
        """

        groups: int | None = setting(4, at_least(1))
        gate: str = setting("plain", member_of("gate"))
        gate_lr: float = setting(0.1, POSITIVE)
        balance: float = setting(0.1, NOT_NEGATIVE)

    keeps_user = True

    def layer(self, recipe: Recipe, user_width: int) -> Callable[[Callable[[int], nn.Module], int], nn.Module]:
        if recipe.groups is None:
            raise FedlabError("method 'mrff' needs a number of groups: groups=4, say")
        n_groups = recipe.groups
        return lambda make, width: Grouped(make, width, n_groups, user_width, recipe.gate, recipe.seed)

    def is_private(self, name: str) -> bool:
        return ".ffn.own." in name

    def is_by_group(self, name: str) -> bool:
        return ".ffn.group." in name


class Grouped(nn.Module):
    """P_u = softmax(W [mean of Attention_out; u_emb] + b), g = argmax P_u; FFN_u(x) + FFN_g(x).

    The mean is over what is known when the first showing in question comes. In training all are in question and the
    mean is over all, as in the paper: where tokens tell clicks, a group then tells a little of later ones.

    The choice itself lets no gradient through: with gate="plain" the gate learns from the balance loss alone; with
    "weighted" FFN_g's output is multiplied by N · P_u[g], and the click loss reaches it too. In both the balance loss
    ends at the gate. With "through" it teaches the attention and the embeddings below as well, as Eq. 8 has it: these
    then move all clients from group to group at once, and forget clicks over it. With "random" nothing is asked: each
    client's group is drawn once, the same in all blocks, which a gate that is worth its name must beat.
    """

    def __init__(
        self, make: Callable[[int], nn.Module], width: int, n_groups: int, user_width: int, gate: str, seed: int
    ):
        super().__init__()
        self.gate: GroupGate = lookup("gate", gate)()
        self.n_groups, self.seed = n_groups, seed
        self.own = make(width)
        if "output.weight" not in dict(self.own.named_parameters()):
            raise FedlabError(
                f"under MRFF feed-forward layers end in a Linear called output; {type(self.own).__name__} has none"
            )
        nn.init.zeros_(self.own.get_parameter("output.weight"))  # a client's own layer begins by saying nothing
        members = [make(width) for _ in range(n_groups)]
        self.group = make(width)
        for name, _ in list(self.group.named_parameters()):
            stacked = torch.stack([dict(m.named_parameters())[name].detach() for m in members])
            owner, _, leaf = name.rpartition(".")
            setattr(self.group.get_submodule(owner), leaf, nn.Parameter(stacked))
        self.switch = Linear(width + user_width, n_groups)

    def forward(
        self, x: Tensor, user: Tensor, windows: Windows, group: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """
        Args:
            x: [..., T, D]; user: [..., D'].
            group: [...], where it is settled, and the parameters of `group` are that group's alone.

        Returns:
            The layer's output, and (group [...], probabilities [..., G]).
        """
        known = windows.known.unsqueeze(-1)
        mean = (x * known).sum(dim=-2) / known.sum(dim=-2)
        seen = torch.cat([mean, user], dim=-1)
        if not self.gate.teaches_below:
            seen = seen.detach()
        logits_G = self.switch(seen.unsqueeze(-2)).squeeze(-2)
        probability_G = torch.softmax(logits_G, dim=-1)
        if group is None:
            group = self.gate.choose(probability_G, windows.users, self.n_groups, self.seed)
            chosen = {n: p[group] for n, p in self.group.named_parameters()}
        else:
            chosen = dict(self.group.named_parameters())
        change = functional_call(self.group, chosen, (x,))
        if self.gate.weighs:
            weight = self.n_groups * probability_G.gather(-1, group.unsqueeze(-1))
            change = change * weight.unsqueeze(-1)
        return self.own(x) + change, (group, probability_G)


class GroupGate:
    """How a client comes to a group. A subclass registers as "gate".

    Class attributes:
        teaches_below: does the balance loss teach the layers below the gate too, as Eq. 8 has it?
        weighs: is a group's layer multiplied by its probability, so that the click loss teaches the gate?
    """

    teaches_below: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def choose(self, probability_G: Tensor, users: Tensor, n_groups: int, seed: int) -> Tensor:
        """The group of each client, int64 of the shape of `users`."""
        return probability_G.argmax(dim=-1)


@register("gate", "plain")
class PlainGate(GroupGate):
    """The most likely group; the balance loss alone teaches the gate."""


@register("gate", "weighted")
class WeightedGate(GroupGate):
    """The same, its layer counted by its probability."""

    weighs = True


@register("gate", "through")
class ThroughGate(GroupGate):
    """The same as plain, the balance loss reaching what lies below."""

    teaches_below = True


@register("gate", "random")
class RandomGate(GroupGate):
    """Each user's group is drawn once, from the user and the seed alone, the same in all blocks."""

    def choose(self, probability_G: Tensor, users: Tensor, n_groups: int, seed: int) -> Tensor:
        key_U = keys(seed, 0, users.cpu().numpy().reshape(-1), GROUPS)
        drawn_U = uniforms(key_U, np.zeros(1, dtype=np.int64)) * n_groups
        return torch.from_numpy(drawn_U.astype(np.int64)).reshape(users.shape).to(users.device)
