"""The plain engine: one client at a time, as Algorithm 1 of FedVLR and of FedMR write it.

Line numbers are FedVLR's: `Engine.step` selects the clients (3), has the server make the views (4) and, with what comes
back from here, update itself (8, 9); `Method.client_update` is the client's side of the algorithm.

Slow on purpose only in that: a client sees the rows that it touches and nothing is copied that it does not.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.data.negatives import Samples
from fedlab_mm.methods.base import PERSONAL, Batch
from fedlab_mm.records import Upload
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import Engine, LocalWork, sends_rows


@register("engine", "loop")
class Loop(Engine):
    """What a reader checks `stacked` against."""

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, sent: Mapping[str, Tensor]) -> LocalWork:
        mixed = {n: torch.zeros_like(sent[n]) for n, part in self.method.parts.items() if part.upload}
        private: dict[str, list[Tensor]] = {name: [] for name in self.private}
        losses, n_rows, kept = [], [], []
        for c in range(len(samples.clients)):  # line 5: for all clients u in S_t
            done, loss, upload, own_scores_I = self.client_round(samples, c, sent)  # line 6: ClientUpdate
            for name, total in mixed.items():  # Σ_u α_u …
                rows = upload.rows if name in upload.by_row else slice(None)
                if f"∇{name}" in upload.values:
                    total[rows] += alpha_C[c] * upload.values[f"∇{name}"]
                else:
                    total[rows] += alpha_C[c] * (upload.values[name] - sent[name][rows])
            for name, values in private.items():
                values.append(done[name])
            losses.append(loss)
            n_rows.append(len(upload.rows))
            kept.append(own_scores_I)
        return LocalWork(
            {name: torch.stack(values) for name, values in private.items()},
            torch.tensor(losses, dtype=torch.float64),
            np.array(n_rows),
            mixed,
            torch.stack(kept) if self.kept_UI is not None else None,
        )

    def client_round(
        self, samples: Samples, c: int, sent: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], float, Upload, Tensor]:
        """The round of one client: its new private parameters, its loss, all that leaves it, and its own scores of all
        items where its backbone keeps them (else empty)."""
        user, method, dtype = int(samples.clients[c]), self.method, self.recipe.dtype
        items, labels = samples.of(c)
        touched, draws = np.unique(items, return_counts=True)
        owned = np.isin(touched, items[labels > 0])
        rows = torch.from_numpy(touched)
        batch = Batch(
            share_N=torch.from_numpy(draws / len(items)).to(dtype),
            label_N=torch.from_numpy(owned).to(dtype),
            own_N=torch.from_numpy(owned / owned.sum()).to(dtype),
        )
        private = {n: p[user][rows] if n == PERSONAL else p[user].clone() for n, p in self.private.items()}
        here = {n: p[rows] if method.parts[n].by_item else p for n, p in sent.items()}
        loss, values = method.client_update(private, here, batch, self.round + 1)

        if PERSONAL in private:
            private[PERSONAL] = self.private[PERSONAL][user].index_copy(0, rows, private[PERSONAL])
        moved = {n: values[n] for n, part in method.parts.items() if part.moves}
        whole = {n: sent[n].index_copy(0, rows, v) if method.parts[n].by_item else v for n, v in moved.items()}
        own_scores_I = torch.empty(0)
        if self.kept_UI is not None:
            with torch.no_grad():
                own_scores_I = method.logits({**sent, **private, **whole}, self._own_I(user, self.data.n_items))

        by_row = {n for n in method.parts if sends_rows(method, n)}
        leaves: dict[str, Tensor] = {}
        for name, part in method.parts.items():
            if part.upload == "gradient":
                leaves[f"∇{name}"] = values[f"∇{name}"]
            elif part.upload == "value":
                leaves[name] = (moved if name in by_row else whole)[name]
        return private, float(loss), Upload(user, len(items), rows, leaves, frozenset(by_row)), own_scores_I

    @torch.no_grad()
    def score_items(self, sent: Mapping[str, Tensor], private: Mapping[str, Tensor]) -> Tensor:
        n_items = next(len(sent[n]) for n, part in self.method.parts.items() if part.by_item)
        return torch.stack(
            [
                self.method.logits(self._local(sent, private, u), self._own_I(u, n_items))
                for u in range(len(self.data.train))
            ]
        )

    @torch.no_grad()
    def router_weights(self) -> Tensor | None:
        if not self.method.routes:
            return None
        sent, weights = self.method.broadcast(), []
        for user in range(self.data.n_users):
            local = self._local(sent, self.private, user)
            weights.append(self.method.weights(self.method.views(local), local, self._own_I(user, self.data.n_items)))
        return torch.stack(weights)

    def _local(self, sent: Mapping[str, Tensor], private: Mapping[str, Tensor], user: int) -> dict[str, Tensor]:
        return {**sent, **{n: p[user] for n, p in private.items()}}

    def _own_I(self, user: int, n_items: int) -> Tensor:
        """1 / n_u at the user's training items."""
        own_I = torch.zeros(n_items, dtype=self.recipe.dtype)
        own_I[torch.from_numpy(self.data.train[user])] = 1 / len(self.data.train[user])
        return own_I
