"""FedRAP on ML-100K: what its authors' schedule reaches under full ranking, and what their protocol adds to it.

    python -m benchmarks.fedrap --root FOLDER [--dataset ml-100k] [--rounds 100] [--only NAME ...]

The released code (github.com/mtics/FedRAP) draws a client's negatives once, before the first round, from the items that
it has never met, held-out ones included among those met: so a held-out item is never a negative, while its rivals are.
It ranks the held-out item among 99 of the very pool that negatives came from, and reports the round that is best on
test. A personal table learns its negatives by heart. Each row here changes one of these:

    defaults            the package's own settings
    schedule            the authors' widths, rates, epochs and decay; negatives drawn anew, held-out items among them
    drawn once          the same, negatives drawn once, held-out items among them
    drawn around        the same, drawn once from items never met: the authors' training data
    item means          no model: an item's score is how often a client of "drawn around" drew it as a negative, negated

"full" is HR@50 / NDCG@50 among all items in expectation over ties, at the round that is best on validation; "sampled"
is HR@10 / NDCG@10 among 99 items that the user never met.
"""

import argparse
import json
from collections.abc import Mapping

import numpy as np
import torch
from tqdm import tqdm

import fedlab_mm as fl
from fedlab_mm.data.negatives import Samples
from fedlab_mm.federation import client

AUTHORS = {
    "dim": 32,
    "init_scale": 1.0,  # torch.nn.Embedding's
    "local_epochs": 10,
    "lr": 1e-4,
    "shared_lr": 1e3,
    "id_lr_scale": 1.0,
    "alpha": 0.1,
    "beta": 1e-3,
    "weight_decay": 1e-6,
}
ROWS = ("defaults", "schedule", "drawn once", "drawn around", "item means")


def met(data: fl.Dataset) -> list[np.ndarray]:
    """Each user's items of any split."""
    held = [data.target_U(split) for split in ("valid", "test")]
    return [np.union1d(data.train[u], [t[u] for t in held if t[u] >= 0]) for u in range(data.n_users)]


def drawn_once(data: fl.Dataset, around: list[np.ndarray], seed: int) -> Samples:
    """Four negatives for each positive, distinct for each, from the items that are not among `around`."""
    rng = np.random.default_rng(seed)
    items, labels, lengths = [], [], []
    for u in range(data.n_users):
        own = data.train[u]
        pool = np.setdiff1d(np.arange(data.n_items), around[u])
        negatives = np.concatenate([rng.choice(pool, 4, replace=False) for _ in own])
        items += [own, negatives]
        labels += [np.ones(len(own), dtype=np.int64), np.zeros(len(negatives), dtype=np.int64)]
        lengths.append(len(own) + len(negatives))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return Samples(
        np.arange(data.n_users), indptr, np.concatenate(items), np.concatenate(labels), np.diff(data.train.indptr)
    )


def sampled(scores_UI: torch.Tensor, data: fl.Dataset, everything: list[np.ndarray], seed: int) -> dict[str, float]:
    """HR@10 and NDCG@10 of the test item among 99 that the user never met, ties in expectation."""
    rng = np.random.default_rng(seed)
    target_U = data.target_U("test")
    seen = torch.ones(data.n_users, data.n_items, dtype=torch.bool)
    for u in range(data.n_users):
        pool = np.setdiff1d(np.arange(data.n_items), everything[u])
        seen[u, rng.choice(pool, 99, replace=False)] = False
        seen[u, target_U[u]] = False
    return fl.evaluate(scores_UI, target_U, seen, k=10)


def row(name: str, data: fl.Dataset, rounds: int, every: int) -> Mapping[str, float]:
    everything = met(data)
    train = [data.train[u] for u in range(data.n_users)]
    if name == "item means":
        once = drawn_once(data, everything, 0)
        scores_UI = torch.zeros(data.n_users, data.n_items)
        user = np.repeat(once.clients, once.lengths)
        negative = once.labels == 0
        at = (torch.from_numpy(user[negative]), torch.from_numpy(once.items[negative]))
        scores_UI.index_put_(at, torch.tensor(-1.0), accumulate=True)
        full = fl.evaluate(scores_UI, data.target_U("test"), data.train, k=50)
        return {**full, **sampled(scores_UI, data, everything, 1)}
    recipe = fl.Recipe(dataset=data.name, backbone="fedrap", method="none", rounds=rounds)
    if name != "defaults":
        recipe = recipe.but(**AUTHORS)
        # Their −α·MSE has no lower bound, and at their rates the tables of clients with few items grow a thousandfold.
        client.LOSS_BOUND = float("inf")
    federation = fl.untrained(recipe, data)
    if name.startswith("drawn"):
        once = drawn_once(data, everything if name == "drawn around" else train, 0)
        federation.samples_of = lambda clients, t: once.take(clients)
    best: dict[str, float] = {}
    for t in tqdm(range(1, rounds + 1), desc=name, unit="round"):
        try:
            federation.step()
        except fl.DivergedError:
            return {**best, "diverged in round": t}
        if t % every and t != rounds:
            continue
        scores_UI = federation.scores()
        last = sampled(scores_UI, data, everything, 1)
        held = data.target_U("valid")
        valid = fl.evaluate(scores_UI, held, data.train, k=50)["ndcg@50"]
        if valid > best.get("valid", -1.0):
            full = fl.evaluate(scores_UI, data.target_U("test"), data.train, k=50)
            best = {"round": t, "valid": valid, **full, **last}
        tqdm.write(f"{name}, round {t}: valid NDCG@50 {valid:.4f}, sampled HR@10 {last['hr@10']:.3f}")
    return {**best, **{f"last {n}": v for n, v in last.items()}}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.fedrap", description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--every", type=int, default=5, help="rounds between two evaluations [5]")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=ROWS)
    options = parser.parse_args()
    data = fl.load(options.dataset, root=options.root)
    for name in options.only:
        figures = row(name, data, options.rounds, options.every)
        print(json.dumps({"row": name, **{n: round(float(v), 4) for n, v in figures.items()}}), flush=True)


if __name__ == "__main__":
    main()
