"""One communication round: the papers' algorithm, for every task, method, backbone and backend.

Line numbers are those of FedVLR's Algorithm 1, MultiStrategyFusion. `client.py` is what a client does in line 6,
`channel.py` what happens to what it sends.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from fedlab_mm.errors import DivergedError
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.client import Work
from fedlab_mm.records import RoundRecord

if TYPE_CHECKING:
    from fedlab_mm.federation.base import Federation


def play(federation: "Federation") -> RoundRecord:
    """The next round.

    Raises:
        DivergedError: a loss, a private parameter or a shared one is no longer finite. The state stays as it was.
    """
    f, t, start = federation, federation.round + 1, time.perf_counter()

    # Select: who takes part, what each trains on, how much each counts.
    clients = f.sample_clients(t)  # line 3: S_t
    samples = f.samples_of(clients, t)
    alpha_C = f.weights_of(samples)

    # Send.
    sent = f.broadcast()  # line 4: the views, under FedVLR
    f.memory.begin(sent)

    # Each client trains, and uploads through the channel into the server's sums.
    intake = Intake(f.channel, t, f.nothing(sent))
    work = Work.of_nobody()  # a Poisson sample may be empty; the server's noise is added all the same
    if len(clients):  # lines 5 and 6
        work = f.backend.train(samples, alpha_C, {name: part.detach() for name, part in sent.items()}, intake)
    if (unsound := work.unsound()) is not None:
        raise DivergedError(t, int(clients[unsound]))
    f.make_room(work)

    # Aggregate, and move the server: lines 8 and 9.
    f.channel.at_server(intake.mixed, f.greatest_weight(alpha_C), t)
    f.update_server(sent, intake.mixed, work, alpha_C, t)

    # Remember.
    f.keep(clients, work)
    if len(clients):
        f.memory.end(clients, samples.lengths, f.aggregation)
    f.round, f.last_clients, f.last_mixed = t, clients, intake.mixed

    n_rows_C = np.array([intake.n_rows[u] for u in clients.tolist()]) if intake.n_rows else work.n_rows_C
    up, down = f.traffic(sent, n_rows_C)
    loss = float(alpha_C @ work.loss_C.double().cpu().numpy()) / (alpha_C.sum() if len(clients) else 1)
    return RoundRecord(t, clients, loss, {}, up, down, time.perf_counter() - start, f)
