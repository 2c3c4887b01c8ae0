"""The rates that a recipe leaves open, and what they do where the defaults once diverged."""

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.registry import lookup


@pytest.mark.parametrize(
    ("n_items", "of_table", "of_d"),
    [(500, 500, 30), (560, 560, 30), (1349, 1000, 67.45), (2528, 1000, 126.4), (6710, 1000, 335.5)],
)
def test_the_rate_of_a_row_by_default(n_items, of_table, of_d):
    """Toy and KU, ML-100K, the shape of FedVLR's Movie, and the short-video set on which n_items itself diverged."""
    r = fl.Recipe(dataset="tiny", dim=4, id_dim=6, backbone="fedrap")
    features = {"image": torch.zeros(n_items, 3)}
    none, fedvlr, fedmr = (lookup("method", m)(r.but(method=m), n_items, features) for m in ("none", "fedvlr", "fedmr"))
    assert none.rate("item_table", "sgd") == of_table
    assert [m.rate("id_embedding", "sgd") for m in (fedvlr, fedmr)] == [of_d, of_d]
    assert [m.rate("personal_table", "sgd") for m in (none, fedvlr, fedmr)] == [1, 1, 1]
    asked = lookup("method", "none")(r.but(method="none", id_lr_scale=6710.0, shared_lr=0.1), n_items, features)
    assert asked.rate("item_table", "sgd") == asked.rate("personal_table", "sgd") == pytest.approx(671.0)


def thin(n_users: int = 300, n_items: int = 10_000, each: int = 6) -> fl.Dataset:
    """Few interactions and many items: a client's row is a fifth of its samples, not one in n_items."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, n_items + 1)
    rows = [
        (user, int(item), when)
        for user in range(n_users)
        for when, item in enumerate(rng.choice(n_items, each, replace=False, p=popularity / popularity.sum()))
    ]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    items = pd.DataFrame({"title": [str(i) for i in range(n_items)]})
    return build("thin", log, items, {"image": rng.normal(size=(n_items, 2))})


def popularity(data: fl.Dataset) -> float:
    return evaluate_split(lookup("baseline", "popularity")().scores(data), data, "test", 50)["ndcg@50"]


@pytest.mark.parametrize("backbone", ["fcf", "fedrap"])
def test_a_default_holds_where_items_are_many_and_clients_thin(backbone):
    data = thin()
    r = fl.Recipe(dataset="thin", backbone=backbone, method="none", rounds=5)
    with pytest.raises(fl.DivergedError):  # as by n_items, which were the default
        fl.train(r.but(id_lr_scale=float(data.n_items)), data, progress=False)
    run = fl.train(r, data, progress=False)
    assert run.rounds_done == 5
    assert run.test["ndcg@50"] > 0.98 * popularity(data)  # there is nothing else to learn in these data


def test_fedrap_beats_popularity_on_ku(ku):
    """Where it diverged in round 31, below popularity until then."""
    r = fl.Recipe(dataset="ku", backbone="fedrap", method="none", rounds=35, evaluate_every=7)
    run = fl.train(r, ku, progress=False)
    assert run.rounds_done == 35 and run.test["ndcg@50"] > 1.5 * popularity(ku)
