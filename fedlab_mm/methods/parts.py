"""What a method is made of: parts that are sent, a client's batch, the modules on either side, a server's memory."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedlab_mm.aggregation import Aggregation
from fedlab_mm.backbones import Backbone
from fedlab_mm.errors import FedlabError
from fedlab_mm.routing import Router

Parameters = Mapping[str, Tensor]
PERSONAL = "personal_table"  # the one private parameter with a row for each item


@dataclass(frozen=True)
class Part:
    """How a client treats one tensor of what it is sent.

    Attributes:
        by_item: its first axis are the items; a client reads and uploads the rows that it touches.
        moves: the client trains its copy.
        upload: "value", its copy after the local epochs; "gradient", summed over them; None, nothing.
        by_group: its last axis are the groups of clients; a client is sent the column of its own, [I, …]. It stands
            still: what groups hold is moved on the server.
        told: it is nothing that a client needs, but a shape, in zeros, of what it tells; it is not downloaded.

    Raises:
        FedlabError: a part by group that clients would move or upload.
    """

    by_item: bool
    moves: bool
    upload: str | None
    by_group: bool = False
    told: bool = False

    def __post_init__(self) -> None:
        if self.by_group and (self.moves or self.upload or not self.by_item):
            raise FedlabError("a part by group has a row for each item, stands still on clients and is not uploaded")


@dataclass(frozen=True)
class Batch:
    """A client's samples, row by row: a row is an item that it touches, and stands for all its draws.

    An item is always drawn with one label (a negative is never a training item), so the mean loss over samples is
    Σ_n share_N[n] · loss(row n). Rows of weight zero everywhere change nothing: `stacked` pads with them.

    Attributes:
        share_N: draws of the row's item over all draws; sums to one.
        label_N: 1 for a training item, 0 for a negative.
        own_N: 1 / n_u for the n_u training items, else 0: what the router averages over.
    """

    share_N: Tensor
    label_N: Tensor
    own_N: Tensor


class Client(nn.Module):
    """The private modules of a device: the backbone and, where views are to be mixed, the router. Under a backbone with
    a personal table, that too, one row an item."""

    def __init__(self, backbone: Backbone, router: Router | None = None, personal: Tensor | None = None):
        super().__init__()
        self.backbone, self.router = backbone, router
        if personal is not None:
            self.register_parameter(PERSONAL, nn.Parameter(personal))


class Shared(nn.Module):
    """What the server holds: a method's own tables and fusion, and the layers that a backbone shares.

    `item_table` is D of an ID-based recommender, [I, item_width]; under fusion only backbones with a table of their own
    have one.
    """

    def __init__(self, backbone: Backbone, fusion: nn.Module | None = None, item_table: Tensor | None = None):
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        for name in sorted(backbone.private):
            owner, _, leaf = name.rpartition(".")
            delattr(self.backbone.get_submodule(owner), leaf)
        self.fusion = fusion
        if item_table is not None:
            self.item_table = nn.Parameter(item_table)


class Memory:
    """What a server remembers of its clients, from what they upload; as it stands, nothing.

    A method that has one returns it from `memory(n_users, n_wanted)`; `tests/newcomers/method.py` is a small one. Of a
    round it is asked, in this order:

    1. `columns`: which column of parts by group each client is sent.
    2. `begin(sent)`, before the clients train; what was kept of a round that diverged is thrown away here.
    3. `take(uploads)`, as the server sees them: after every stage of the channel, some clients at a time, in an order
       that differs between backends. `Change.real()` is free of padding.
    4. `end`, once the server has moved and all is finite; a round that nobody came to has none.

    `state` is saved, and a saved state is refused where its shapes differ.
    """

    def begin(self, sent: Parameters) -> None:
        """A round begins; the clients are sent this."""

    def take(self, uploads: Any) -> None:
        """Uploads of some clients, as the server sees them: a `federation.channel.Uploads`."""

    def end(self, clients: np.ndarray, n_samples_C: np.ndarray, rule: Aggregation) -> None:
        """The round is over; these clients took part."""

    def columns(self, users: Tensor) -> Tensor:
        """Which column of a part by group each client is sent, int64 [C]."""
        raise NotImplementedError

    def groups_of_users(self) -> np.ndarray | None:
        """Each user's group, int64 [U], −1 for one that was never there; None where there are none."""
        return None

    def state(self) -> dict[str, Tensor]:
        """All that the next round depends on, by names of its own."""
        return {}

    def load_state(self, state: Parameters) -> None:
        """The inverse of `state`."""
