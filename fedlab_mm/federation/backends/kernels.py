"""How a chunk of clients trains at once: what `stacked` is made of.

`Vmapped` trains any method around any backbone: the client code that `loop` runs, vectorised. Others know a method or a
backbone and are faster (`linear.py`, `gram.py`); tests hold them to `Vmapped`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlab_mm.federation.backends.chunks import Chunk, tensors_of
from fedlab_mm.federation.channel import Change, Intake, Uploads
from fedlab_mm.federation.client import change_of
from fedlab_mm.federation.ranking import RankingFederation
from fedlab_mm.methods import Method
from fedlab_mm.methods.parts import PERSONAL, Parameters


class Kernel:
    """Trains chunks of one round's clients.

    Attributes:
        cache: bytes that a chunk should work on. More is slower by misses, less by the calls for each chunk.
        most_rows: of a client, for which it is the right one.
        intake: takes what the clients upload.
    """

    cache: ClassVar[float] = 16e6
    most_rows: ClassVar[float] = float("inf")

    def __init__(self, federation: RankingFederation, sent: Parameters, intake: Intake):
        self.federation, self.method, self.sent, self.intake = federation, federation.method, sent, intake
        self.recipe, self.round = federation.recipe, intake.t

    @staticmethod
    def fits(method: Method) -> bool:
        """Can it train this method's clients?"""
        return True

    def given(self, name: str, chunk: Chunk) -> Tensor:
        """What each client of a chunk is sent of a part: its rows, and of a part by group its group's column."""
        part, value = self.method.parts[name], self.sent[name]
        if not part.by_item:
            return value.expand(len(chunk.alpha_C), *value.shape)
        rows = chunk.gather(value)
        if not part.by_group:
            return rows
        column_C = self.federation.memory.columns(chunk.users)
        where = column_C.view(-1, *[1] * (rows.ndim - 1)).expand(*rows.shape[:-1], 1)
        return rows.gather(-1, where).squeeze(-1)

    def bytes_of_client(self, n_rows: Any) -> Any:
        """What a client with so many rows works on through its local epochs; a number or an array of them."""
        raise NotImplementedError

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """Move the chunk's private parameters, hand in what it uploads; return the mean losses [C] and, where clients
        keep their items, all scores by them [C, I]."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last chunk: what can be handed in for all clients at once."""

    def hand_in(self, chunk: Chunk, changes: Parameters) -> None:
        """What each client uploads of each part.

        Args:
            changes: name -> [C, N, …] for the chunk's rows of a part by item (anything in padding), [C, …] of others.
        """
        said = {n: change_of(self.method, n, c, chunk.rows_CN, chunk.there_CN) for n, c in changes.items()}
        private = tensors_of(chunk.private)
        said |= {name: Change(private[name], "shown") for name in self.method.shown}
        uploads = Uploads(chunk.clients, chunk.n_samples_C, said, self.sent)
        self.intake.take(uploads, chunk.alpha_C)


class Vmapped(Kernel):
    """Any method around any backbone: the loop's own client code, vectorised over clients."""

    cache = 64e6

    def bytes_of_client(self, n_rows: Any) -> Any:
        parts = self.method.parts
        rows = sum(p[0].numel() for n, p in self.sent.items() if parts[n].by_item)
        whole = sum(3 * p.numel() for n, p in self.sent.items() if not parts[n].by_item)  # copy, gradient, their sum
        private = sum(2 * p[0].numel() for p in self.federation.private.values())
        table = self.federation.personal
        personal = 0 if table is None else table.initial_IW.shape[1]
        return self.recipe.dtype.itemsize * (3 * n_rows * (rows + personal) + whole + private)

    def train(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        method, parts = self.method, self.method.parts
        sent = {n: self.given(n, chunk) for n in self.sent}
        private = tensors_of(chunk.private)
        if chunk.personal_CNW is not None:
            private[PERSONAL] = chunk.personal_CNW
        loss_C, values = method.client_update(private, sent, chunk.batch, self.round, stacked=True)
        changes = {
            name: values[f"∇{name}"] if parts[name].upload == "gradient" else values[name] - sent[name]
            for name in self.intake.mixed
        }
        self.hand_in(chunk, changes)
        return loss_C, None if self.federation.kept_UI is None else self._kept(chunk, private, values)

    def _kept(self, chunk: Chunk, private: dict[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
        """Every item's score by each client's own copies."""
        c_P, n_P = chunk.there_CN.nonzero(as_tuple=True)
        i_P, n_clients, n_items = chunk.rows_CN[c_P, n_P], len(chunk.alpha_C), self.method.n_items

        def whole(table: Tensor, rows: Tensor) -> Tensor:
            tables = table.expand(n_clients, *table.shape).clone()
            tables[c_P, i_P] = rows[c_P, n_P]
            return tables

        copies = {
            n: whole(self.sent[n], values[n]) if p.by_item else values[n]
            for n, p in self.method.parts.items()
            if p.moves
        }
        table = self.federation.personal
        if table is not None and chunk.personal_CNW is not None:
            copies[PERSONAL] = table.dense(chunk.users)
            copies[PERSONAL][c_P, i_P] = chunk.personal_CNW[c_P, n_P]
        own_CI = whole(chunk.alpha_C.new_zeros(n_items), chunk.batch.own_N)

        def logits(local: Mapping[str, Tensor], own_I: Tensor) -> Tensor:
            return self.method.logits({**self.sent, **local}, own_I)

        with torch.no_grad():
            columns = self.federation.columns(self.sent, chunk.users)
            return torch.func.vmap(logits)({**columns, **private, **copies}, own_CI)
