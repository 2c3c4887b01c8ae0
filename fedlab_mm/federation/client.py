"""A client's round, and what it ends in.

`train_ranker` and `train_clicker` are pure functions: from a client's private state, what it was sent and its samples
to what it keeps and what it uploads. Every backend calls them or is tested equal to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.federation.channel import Change, Uploads
from fedlab_mm.federation.state import RankOne
from fedlab_mm.methods.base import Method
from fedlab_mm.methods.parts import PERSONAL, Batch
from fedlab_mm.records import Upload

LOSS_BOUND = 1e6  # a mean loss above this counts as diverged: the logits behind it mean nothing any more


@dataclass
class Done:
    """What one client's round ends in.

    Attributes:
        private: its new private parameters; of a personal table the rows that it touched.
        loss: the mean over its local epochs.
        uploads: all that leaves it, before the channel; None once it has been handed in.
        rows: int64 [N], the items that it touched; None where samples are no items.
        kept_I: its scores of all items by its own copies, under a backbone that keeps them.
        group_L: the groups that it was sent to, block by block, under a method that sends it.
    """

    private: dict[str, Tensor]
    loss: float
    uploads: Uploads | None
    rows: Tensor | None = None
    kept_I: Tensor | None = None
    group_L: Tensor | None = None

    @property
    def upload(self) -> Upload:
        """All that leaves it, in the papers' words."""
        assert self.uploads is not None
        return next(self.uploads.each())


@dataclass
class Work:
    """What the clients of a round keep. Nothing of it is in the federation's state yet: a round that diverges leaves
    none.

    Attributes:
        private: their new private parameters, [C, …], or how they change.
        loss_C: their losses; n_rows_C: how many items each touched.
        personal: where there is a personal table: the client's position [P], item [P] and new row [P, W] of every pair.
        kept_CI: every item's score by the items that each client keeps; None under a backbone that keeps none.
        group_CL: int64 [C, L], where each was sent; None where nobody is.
    """

    private: dict[str, Tensor | RankOne]
    loss_C: Tensor
    n_rows_C: np.ndarray
    personal: tuple[Tensor, Tensor, Tensor] | None = None
    kept_CI: Tensor | None = None
    group_CL: Tensor | None = None

    @classmethod
    def of_nobody(cls) -> "Work":
        return cls({}, torch.zeros(0), np.zeros(0, dtype=np.int64))

    @classmethod
    def of_each(cls, every: Sequence[Done]) -> "Work":
        """Of clients that were trained one after the other."""

        def stacked(values: Sequence[Tensor | None]) -> Tensor | None:
            tensors = [v for v in values if v is not None]
            return torch.stack(tensors) if tensors else None

        names = [n for n in every[0].private if n != PERSONAL]
        private: dict[str, Tensor | RankOne] = {n: torch.stack([done.private[n] for done in every]) for n in names}
        rows = [torch.zeros(0, dtype=torch.int64) if done.rows is None else done.rows for done in every]
        n_rows_C = np.array([len(r) for r in rows])
        personal = None
        if PERSONAL in every[0].private:
            c_P = torch.repeat_interleave(torch.arange(len(rows)), torch.from_numpy(n_rows_C))
            personal = (c_P.to(rows[0].device), torch.cat(rows), torch.cat([done.private[PERSONAL] for done in every]))
        loss_C = torch.tensor([done.loss for done in every], dtype=torch.float64)
        kept_CI, group_CL = stacked([done.kept_I for done in every]), stacked([done.group_L for done in every])
        return cls(private, loss_C, n_rows_C, personal, kept_CI, group_CL)

    def unsound(self) -> int | None:
        """The position of the first client whose result is not finite, if there is one."""
        sound_C = torch.isfinite(self.loss_C) & (self.loss_C.abs() < LOSS_BOUND)
        for new in self.private.values():
            size_C = (
                new.bound_C() if isinstance(new, RankOne) else new[:, None].flatten(1).sum(dim=1)
            )  # of shape () too
            sound_C = sound_C & torch.isfinite(size_C).to(sound_C.device)
        if self.personal is not None:
            c_P, _, rows_PW = self.personal
            sound_C[c_P[~torch.isfinite(rows_PW.sum(dim=1))].to(sound_C.device)] = False
        return None if bool(sound_C.all()) else int((~sound_C).nonzero()[0])


@dataclass(frozen=True)
class ClientSamples:
    """What a client that ranks trains on: int64 [N], the items that its samples touch, each once; their shares and
    labels; and how many samples there are."""

    rows: Tensor
    batch: Batch
    n_samples: int

    @classmethod
    def of(cls, items: np.ndarray, labels: np.ndarray, dtype: torch.dtype, device: torch.device) -> "ClientSamples":
        """
        Args:
            items, labels: of its samples, in any order; an item that was drawn twice stands there twice.
        """
        touched, draws = np.unique(items, return_counts=True)
        owned = np.isin(touched, items[labels > 0])

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(device, dtype)

        batch = Batch(tensor(draws / len(items)), tensor(owned), tensor(owned / owned.sum()))
        return cls(torch.from_numpy(touched).to(device), batch, len(items))


def train_ranker(
    method: Method,
    user: int,
    private: dict[str, Tensor],
    sent: Mapping[str, Tensor],
    samples: ClientSamples,
    t: int,
) -> tuple[Done, dict[str, Tensor]]:
    """ClientUpdate of a method that ranks: A local epochs, and the upload.

    Args:
        private: the client's own parameters, copies of them; of a personal table the touched rows.
        sent: what the client was sent, of parts by group the column of its own.

    Returns:
        What it ends in, and its own copies of what moves, as it left them.
    """
    rows = samples.rows
    given = {n: value[rows] if method.parts[n].by_item else value for n, value in sent.items()}
    loss, values = method.client_update(private, given, samples.batch, t)
    changes, all_there = {}, torch.ones_like(rows, dtype=torch.bool)
    for name, part in method.parts.items():
        if part.upload is not None:
            value = values[f"∇{name}"] if part.upload == "gradient" else values[name] - given[name]
            changes[name] = change_of(method, name, value[None], rows[None], all_there[None])
    changes |= {name: Change(private[name][None], "shown") for name in method.shown}
    uploads = Uploads(np.array([user]), np.array([samples.n_samples]), changes, sent)
    return Done(private, float(loss), uploads, rows), values


def change_of(method: Method, name: str, value: Tensor, rows_CN: Tensor, there_CN: Tensor) -> Change:
    """What clients say of a part, by how the method has it uploaded."""
    part = method.parts[name]
    if not part.by_item:
        return Change(value, str(part.upload))
    return Change(value, str(part.upload), rows_CN, there_CN, whole=not method.sends_rows(name))
