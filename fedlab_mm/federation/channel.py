"""What happens to an upload between a client and the server.

A channel is an ordered list of stages. Each is a class in a file, registered as "stage", with its own settings: clip,
hide rows, add noise; on the server, add noise to the sum. Backends hand in what their clients send, one client or a
chunk of them side by side, and the channel does the rest, so that no backend knows of a mechanism.

Whoever wants to look (an attack, a method's memory) is an observer: it sees each upload as it arrives at the server.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.errors import FedlabError
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Upload
from fedlab_mm.registry import lookup, names
from fedlab_mm.settings import Settings

MOST = 8e6  # numbers that pass through the stages at a time


@dataclass(frozen=True)
class Change:
    """What some clients say of one part of the model.

    Attributes:
        value: [C, N, …] for rows of items, [C, …] for a part as a whole.
        kind: "value": by how much their copies have moved; "gradient": summed over their local epochs; "shown":
            private parameters, as they are.
        rows_CN: the items; None for a part that has none. there_CN: False where a row is padding.
        whole: rows that are not listed are sent too: they have not moved.
        group_C: of a part by group, whose layer each client speaks of.
    """

    value: Tensor
    kind: str = "value"
    rows_CN: Tensor | None = None
    there_CN: Tensor | None = None
    whole: bool = False
    group_C: Tensor | None = None

    def real(self) -> Tensor:
        """The value, zero in padding."""
        return self.value if self.there_CN is None else self.value * like(self.there_CN, self.value)

    def of(self, some: slice) -> "Change":
        cut = {name: getattr(self, name) for name in ("value", "rows_CN", "there_CN", "group_C")}
        return replace(self, **{name: value[some] for name, value in cut.items() if value is not None})


@dataclass(frozen=True)
class Uploads:
    """What some clients of a round send, side by side.

    Attributes:
        clients: int64 [C]; n_samples_C: how many samples each trained on.
        changes: by name of the part.
        sent: what the server had sent.
        n_rows_C: how many rows each says that it touched, where a stage has changed that.
    """

    clients: np.ndarray
    n_samples_C: np.ndarray
    changes: Mapping[str, Change]
    sent: Mapping[str, Tensor]
    n_rows_C: np.ndarray | None = None

    def of(self, some: slice) -> "Uploads":
        changes = {n: c.of(some) for n, c in self.changes.items()}
        return Uploads(self.clients[some], self.n_samples_C[some], changes, self.sent)

    def with_changes(self, changed: Mapping[str, Change], n_rows_C: np.ndarray | None = None) -> "Uploads":
        return replace(self, changes=changed, n_rows_C=self.n_rows_C if n_rows_C is None else n_rows_C)

    def each(self) -> Iterator[Upload]:
        """One upload after the other, in the papers' words: copies and gradients."""
        for c, client in enumerate(self.clients.tolist()):
            values, by_row = {}, set()
            rows = torch.zeros(0, dtype=torch.int64)
            for name, change in self.changes.items():
                value, own_rows = change.value[c], None
                if change.rows_CN is not None and change.there_CN is not None:
                    there_N = change.there_CN[c]
                    own_rows, value = change.rows_CN[c][there_N], value[there_N]
                    rows = own_rows if not change.whole or not len(rows) else rows
                    if change.whole:
                        value = torch.zeros_like(self.sent[name]).index_copy(0, own_rows, value)
                        own_rows = None
                    else:
                        by_row.add(name)
                if change.kind == "value":
                    sent = self.sent[name] if change.group_C is None else self.sent[name][change.group_C[c]]
                    value = value + (sent if own_rows is None else sent[own_rows])
                values[f"∇{name}" if change.kind == "gradient" else name] = value
            yield Upload(client, int(self.n_samples_C[c]), rows, values, frozenset(by_row))


class Stage:
    """One thing that happens to uploads, or to their sum. A subclass registers as "stage".

    Class attributes:
        order: stages take their turns by this number.
        tasks: of which tasks' clients it is.
        protects: what, and from whom; needs: what must hold for that.
        lengthens: may it make an upload longer than it was? Behind a clip, differential privacy is lost then.
        adds: does it only add numbers that do not depend on the upload? Then it may be applied to a sum's terms in any
            form, and a backend need not make each client's upload.
        Params: the class of its settings; every recipe of its tasks has them.
    """

    order: ClassVar[int] = 50
    tasks: ClassVar[tuple[str, ...]] = ("ranking",)
    protects: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    lengthens: ClassVar[bool] = True
    adds: ClassVar[bool] = False
    Params: ClassVar[type[Settings]] = Settings

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    @property
    def idle(self) -> bool:
        """Does it leave all uploads as they are? Then it is left out."""
        return False

    def check(self, aggregation: str, others: "Sequence[Stage]") -> None:
        """Complain of a recipe under which the stage would claim what is not proven.

        Args:
            others: all stages at work, in their order.
        """

    def at_client(self, uploads: Uploads, t: int) -> Uploads:
        """What leaves the clients, in round t."""
        return uploads

    def at_server(self, mixed: dict[str, Tensor], greatest: float, t: int) -> None:
        """What becomes of the sum, in place; `greatest` is the largest weight that a client can have."""


Observer = Callable[[Uploads], None]


@dataclass
class Channel:
    """A recipe's stages, in their order, and who looks on.

    Attributes:
        observers: are shown uploads as they arrive, a chunk of clients at a time.
    """

    stages: Sequence[Stage]
    observers: list[Observer] = field(default_factory=list)

    @classmethod
    def of(cls, recipe: Recipe, task: str, aggregation: str) -> "Channel":
        """
        Raises:
            FedlabError: a stage would claim what is not proven.
        """
        stages = stages_of(recipe, task)
        for stage in stages:
            stage.check(aggregation, stages)
        return cls(stages)

    def watch(self, look: Callable[[Upload, Mapping[str, Tensor]], None]) -> None:
        """Show every upload as it arrives, and what was sent, as a server that looks would see them."""

        def observe(uploads: Uploads) -> None:
            for upload in uploads.each():
                look(upload, uploads.sent)

        self.observers.append(observe)

    def refuse_a_memory(self, recipe: Recipe) -> None:
        """
        Raises:
            FedlabError: a stage protects by what it does to the sum, and the method reads single uploads.
        """
        for stage in self.stages:
            if type(stage).at_server is not Stage.at_server:
                raise FedlabError(
                    f"method '{recipe.method}' reads single uploads, which {type(stage).__name__} on their sum does "
                    "not cover: use noise, or another method"
                )

    @property
    def transparent(self) -> bool:
        """Does nobody change or look at a single upload? Then a backend may hand in sums."""
        return not self.observers and all(_silent(stage) for stage in self.stages)

    @property
    def adds_only(self) -> bool:
        """Is all that happens to uploads that something is added, and does nobody look?"""
        return not self.observers and all(_silent(stage) or stage.adds for stage in self.stages)

    def at_client(self, uploads: Uploads, t: int) -> Uploads:
        for stage in self.stages:
            uploads = stage.at_client(uploads, t)
        for observe in self.observers:
            observe(uploads)
        return uploads

    def at_server(self, mixed: dict[str, Tensor], greatest: float, t: int) -> None:
        for stage in self.stages:
            stage.at_server(mixed, greatest, t)


class Intake:
    """What the server takes in of round t.

    Attributes:
        mixed: for each part that is uploaded, Σ_u α_u · (value_u − value) or Σ_u α_u · ∇_u, of all that was taken.
        n_rows: client -> how many rows it says that it touched, where a stage has changed that.
    """

    def __init__(self, channel: Channel, t: int, mixed: dict[str, Tensor]):
        self.channel, self.t, self.mixed = channel, t, mixed
        self.n_rows: dict[int, int] = {}

    def take(self, uploads: Uploads, alpha_C: Tensor) -> None:
        """Uploads of some clients, through the channel, weighted by α_u into the sums."""
        if self.channel.transparent:
            self._add(uploads, alpha_C)
            return
        widest = max((self._widest(change, uploads.sent.get(n)) for n, change in uploads.changes.items()), default=1)
        step = max(1, int(MOST / max(1, widest)))
        for start in range(0, len(uploads.clients), step):
            some = slice(start, start + step)
            arrived = self.channel.at_client(uploads.of(some), self.t)
            if arrived.n_rows_C is not None:
                self.n_rows |= dict(zip(arrived.clients.tolist(), arrived.n_rows_C.tolist(), strict=True))
            self._add(arrived, alpha_C[some])

    @staticmethod
    def _widest(change: Change, sent: Tensor | None) -> int:
        """The most numbers that a client's part may become."""
        return max(change.value[:1].numel(), 0 if sent is None or change.rows_CN is None else sent.numel())

    def _add(self, uploads: Uploads, alpha_C: Tensor) -> None:
        for name, change in uploads.changes.items():
            if name not in self.mixed:
                continue
            total, value = self.mixed[name], change.value
            if change.group_C is not None:
                total.index_add_(0, change.group_C, value * like(alpha_C, value))
            elif change.rows_CN is None or change.there_CN is None:
                total += torch.tensordot(alpha_C, value, dims=1)
            elif change.rows_CN.stride(0) == 0:  # all clients speak of the same rows
                total.index_add_(0, change.rows_CN[0], torch.tensordot(alpha_C, change.real(), dims=1))
            else:
                weight_CN = change.there_CN * alpha_C[:, None]
                self.add_rows(name, change.rows_CN, value * like(weight_CN, value))

    def add_rows(self, name: str, rows_CN: Tensor, weighted: Tensor) -> None:
        """Rows that a backend has weighted itself, zero in padding: [C, N, …]. For a transparent channel only."""
        self.mixed[name].index_add_(0, rows_CN.flatten(), weighted.flatten(0, 1))


def stages_of(recipe: Recipe, task: str) -> list[Stage]:
    """A recipe's stages that are at work, in their order. A recipe that is older than a stage has none of its settings,
    and the stage is idle."""
    members: list[Any] = [lookup("stage", name) for name in names("stage")]
    fitting = [member for member in sorted(members, key=lambda m: m.order) if task in member.tasks]
    known = [m for m in fitting if all(f.name in recipe.settings for f in fields(m.Params))]
    return [stage for member in known if not (stage := member(recipe)).idle]


def _silent(stage: Stage) -> bool:
    return type(stage).at_client is Stage.at_client


def like(leading: Tensor, other: Tensor) -> Tensor:
    """A mask or factor of the leading axes, ready to multiply with."""
    return leading.view(*leading.shape, *[1] * (other.ndim - leading.ndim))
