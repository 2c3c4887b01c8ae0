"""The plain engine: one client at a time, as Algorithm 1 of FedVLR and of FedMR write it.

Line numbers are FedVLR's: `Engine.step` selects the clients (3), has the server make the views (4) and, with what comes
back from here, update itself (8, 9); `Method.client_update` is the client's side of the algorithm.

Slow on purpose only in that: a client sees the rows that it touches and nothing is copied that it does not.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples
from fedlab_mm.methods.base import PERSONAL, Batch
from fedlab_mm.records import Upload
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import BLOCK_BYTES, Engine, LocalWork, sends_rows
from fedlab_mm.threads import lap

CALLS = 300  # rows that take as long as the calls that every client needs, few rows or many


@register("engine", "loop")
class Loop(Engine):
    """What a reader checks `stacked` against.

    Attributes:
        observer: is shown every upload, with what was broadcast, as a server that looks would see it.
    """

    observer: Callable[[Upload, Mapping[str, Tensor]], None] | None = None

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        mixed = {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}
        private: dict[str, list[Tensor]] = {name: [] for name in self.private}
        losses, rows, sent_rows, personal, kept = [], [], [], [], []
        pairs, shown = [], []
        for c in range(len(samples.clients)):  # line 5: for all clients u in S_t
            done, loss, upload, own_scores_I = self.client_round(samples, c, sent)  # line 6: ClientUpdate
            if self.observer is not None:
                self.observer(upload, sent)
            touched = torch.from_numpy(np.unique(samples.of(c)[0])).to(self.device)
            for name, total in mixed.items():  # Σ_u α_u …
                here = upload.rows if name in upload.by_row else ...
                if f"∇{name}" in upload.values:
                    total[here] += alpha_C[c] * upload.values[f"∇{name}"]
                else:
                    total[here] += alpha_C[c] * (upload.values[name] - sent[name][here])
            for name, values in private.items():
                values.append(done[name])
            lap(CALLS + len(touched))
            losses.append(loss)
            sent_rows.append(len(upload.rows))
            rows.append(touched)
            personal.append(done.get(PERSONAL, torch.empty(0)))
            kept.append(own_scores_I)
            if self.groups is not None:
                by_row = "item_table" in upload.by_row
                here = upload.rows if by_row or self.guard.idle else torch.arange(self.method.n_items)
                change = upload.values["item_table"][slice(None) if by_row else here] - sent["item_table"][here]
                user_P = torch.full_like(here, int(samples.clients[c]))
                pairs.append((user_P, here, change, torch.ones_like(here, dtype=torch.bool)))
                shown.append(torch.cat([upload.values[n].flatten() for n in self.method.shown] or [change[0, :0]]))
        return LocalWork(
            {name: torch.stack(values) for name, values in private.items()},
            torch.tensor(losses, dtype=torch.float64),
            np.array(sent_rows),
            mixed,
            None if self.personal is None else (_numbered(rows), torch.cat(rows), torch.cat(personal)),
            torch.stack(kept) if self.kept_UI is not None else None,
            tuple(map(torch.cat, zip(*pairs, strict=True))) if pairs else None,  # type: ignore[arg-type]
            torch.stack(shown) if shown else None,
        )

    def client_round(
        self, samples: Samples, c: int, sent: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], float, Upload, Tensor]:
        """The round of one client: its new private parameters (of a personal table the touched rows), its loss, all
        that leaves it, and its own scores of all items where its backbone keeps them (else empty)."""
        user, method = int(samples.clients[c]), self.method
        items, labels = samples.of(c)
        touched, draws = np.unique(items, return_counts=True)
        owned = np.isin(touched, items[labels > 0])
        rows = torch.from_numpy(touched).to(self.device)
        batch = Batch(
            share_N=self._tensor(draws / len(items)),
            label_N=self._tensor(owned),
            own_N=self._tensor(owned / owned.sum()),
        )
        private = {n: p[user].clone() for n, p in self.private.items()}
        if self.personal is not None:
            private[PERSONAL] = self.personal.read(torch.full_like(rows, user), rows)
        here = {n: p[rows] if method.parts[n].by_item else p for n, p in sent.items()}
        if self.groups is not None:
            column = int(self.groups.columns(torch.tensor([user])))
            here = {n: p[:, column] if method.parts[n].by_group else p for n, p in here.items()}
        loss, values = method.client_update(private, here, batch, self.round + 1)

        moved = {n: values[n] for n, part in method.parts.items() if part.moves}
        whole = {n: sent[n].index_copy(0, rows, v) if method.parts[n].by_item else v for n, v in moved.items()}
        own_scores_I = torch.empty(0)
        if self.kept_UI is not None:
            kept = {**sent, **private, **whole}
            if self.personal is not None:
                table = self.personal.dense(slice(user, user + 1))[0]
                kept[PERSONAL] = table.index_copy(0, rows, private[PERSONAL])
            with torch.no_grad():
                own_scores_I = method.logits(kept, self._own(slice(user, user + 1), self.data.n_items)[0])

        by_row = {n for n in method.parts if sends_rows(method, n)}
        leaves: dict[str, Tensor] = {}
        for name, part in method.parts.items():
            if part.upload == "gradient":
                leaves[f"∇{name}"] = values[f"∇{name}"]
            elif part.upload == "value":
                leaves[name] = (moved if name in by_row else whole)[name]
        leaves |= {n: private[n] for n in method.shown}
        upload = Upload(user, len(items), rows, leaves, frozenset(by_row))
        return private, float(loss), self.guarded(upload, sent), own_scores_I

    def guarded(self, upload: Upload, sent: Mapping[str, Tensor]) -> Upload:
        """The upload as it leaves: clipped as a whole, with the rows that are to be sent, and noisy."""
        guard, t, who = self.guard, self.round + 1, np.array([upload.client])
        if guard.idle:
            return upload
        touched_CI = torch.zeros(1, self.data.n_items, dtype=torch.bool, device=self.device)
        touched_CI[0, upload.rows] = True
        rows = guard.sent_CI(touched_CI, who, t)[0].nonzero()[:, 0] if upload.by_row else upload.rows

        def change(name: str) -> Tensor:
            value = upload.values[name]
            if name.startswith("∇") or name in self.method.shown:
                return value
            return value - (sent[name][upload.rows] if name in upload.by_row else sent[name])

        changes = {n: change(n) for n in upload.values}
        factor = guard.factor_C({n: c[None] for n, c in changes.items()})[0]
        values = {}
        for label, moved in changes.items():
            name, moved = label.removeprefix("∇"), factor * moved
            here = rows if name in upload.by_row else ...
            if name in upload.by_row:
                whole = torch.zeros_like(sent[name]).index_copy_(0, upload.rows, moved)
                moved = whole[rows]
            if guard.noise:
                by_item = name not in self.method.shown and self.method.parts[name].by_item
                numbers = rows if name in upload.by_row else torch.arange(len(moved)) if by_item else None
                where = None if numbers is None else numbers[None]
                moved = moved + guard.noise_of(name, moved[None], who, t, where)[0]
            itself = label.startswith("∇") or name in self.method.shown
            values[label] = moved if itself else sent[name][here] + moved
        return Upload(upload.client, upload.n_samples, rows, values, upload.by_row)

    def score_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        scores = [self.method.logits(local, own_I) for local, own_I in self._locals(sent, users)]
        return torch.stack(scores)

    def weights_of_users(self, sent: Mapping[str, Tensor], users: slice) -> Tensor:
        method = self.method
        return torch.stack([method.weights(method.views(x), x, own_I) for x, own_I in self._locals(sent, users)])

    def bytes_to_score(self, n_items: int) -> float:
        return BLOCK_BYTES / 64

    def _locals(self, sent: Mapping[str, Tensor], users: slice) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """What each of some users has and was sent, and 1 / n_u at its training items."""
        n_items = self.method.n_rows(sent)
        for u in range(users.start, users.stop):
            local = {**sent, **{n: p[u] for n, p in self.private.items()}}
            if self.personal is not None:
                local[PERSONAL] = self.personal.dense(slice(u, u + 1), n_items)[0]
            yield local, self._own(slice(u, u + 1), n_items)[0]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.recipe.dtype)


def _numbered(rows: list[Tensor]) -> Tensor:
    """The position of the client of each row."""
    lengths = torch.tensor([len(r) for r in rows])
    return torch.repeat_interleave(torch.arange(len(rows)), lengths).to(rows[0].device)
