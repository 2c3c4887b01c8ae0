"""The plain engine: one client at a time, as Algorithm 1 of FedVLR and of FedMR write it.

Line numbers are FedVLR's: `Engine.step` selects the clients (3), has the server make the views (4) and, with what comes
back from here, update itself (8, 9); `Method.client_update` is the client's side of the algorithm.

Slow on purpose only in that: a client sees the rows that it touches and nothing is copied that it does not.
"""

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedlab_mm.data.negatives import Samples
from fedlab_mm.records import Upload
from fedlab_mm.registry import register
from fedlab_mm.simulation.engine import Engine, LocalWork


@register("engine", "loop")
class Loop(Engine):
    """What a reader checks `stacked` against."""

    def train_clients(self, samples: Samples, alpha_C: np.ndarray, views_EID: Tensor) -> LocalWork:
        mixed_EID = torch.zeros_like(views_EID)
        done, losses, n_rows = [], [], []
        for c in range(len(samples.clients)):  # line 5: for all clients u in S_t
            private, loss, upload = self.client_round(samples, c, views_EID)  # line 6: ClientUpdate
            mixed_EID[:, upload.rows] += alpha_C[c] * self.method.contribution(upload, views_EID)  # Σ_u α_u …
            done.append(private)
            losses.append(loss)
            n_rows.append(len(upload.rows))
        private = {name: torch.stack([p[name] for p in done]) for name in self.private}
        return LocalWork(private, torch.tensor(losses, dtype=torch.float64), np.array(n_rows), mixed_EID)

    def client_round(self, samples: Samples, c: int, views_EID: Tensor) -> tuple[dict[str, Tensor], float, Upload]:
        """The round of one client: its new private parameters, its loss, and all that leaves it."""
        user = int(samples.clients[c])
        items, labels = samples.of(c)
        rows, sampled = np.unique(items, return_inverse=True)
        own = np.searchsorted(rows, self.data.train[user])
        private = {name: p[user].clone() for name, p in self.private.items()}
        loss, values = self.method.client_update(
            private,
            views_EID[:, rows],
            torch.from_numpy(own),
            torch.from_numpy(sampled),
            torch.from_numpy(labels).to(self.recipe.dtype),
        )
        upload = Upload(user, len(items), torch.from_numpy(rows), {self.method.upload: values})
        return private, loss, upload

    @torch.no_grad()
    def scores(self) -> Tensor:
        views_EID = self.method.broadcast()
        return torch.stack(
            [
                functional_call(
                    self.method.client,
                    {name: p[user] for name, p in self.private.items()},
                    (views_EID, torch.from_numpy(self.data.train[user])),
                )
                for user in range(self.data.n_users)
            ]
        )

    @torch.no_grad()
    def router_weights(self) -> Tensor | None:
        router = self.method.client.router
        if router is None:
            return None
        views_EID = self.method.broadcast()
        own = {n.removeprefix("router."): p for n, p in self.private.items() if n.startswith("router.")}
        return torch.stack(
            [
                functional_call(
                    router,
                    {name: p[user] for name, p in own.items()},
                    (views_EID[:, torch.from_numpy(self.data.train[user])],),
                )
                for user in range(self.data.n_users)
            ]
        )
