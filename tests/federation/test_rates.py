"""The rates that a recipe leaves open, and what they do where the defaults once diverged."""

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.registry import lookup
from tests.conftest import engine_of


@pytest.mark.parametrize(
    ("n_items", "n_samples", "of_table", "of_d"),
    [
        (500, 123.5, 500, 30),
        (560, 75.5, 560, 30),
        (1349, 516.4, 1349, 67.45),
        (2528, 24.9, 622.5, 126.4),
        (6710, 39.6, 990, 335.5),
    ],
)
def test_the_rate_of_a_row_by_default(n_items, n_samples, of_table, of_d):
    """Toy, KU and ML-100K; the shape of FedVLR's Movie, and the short videos on which n_items itself diverged."""
    r = fl.Recipe(dataset="tiny", dim=4, id_dim=6, backbone="fedrap")
    features = {"image": torch.zeros(n_items, 3)}

    def built(method, **given):
        built = lookup("method", method)(r.but(method=method, **given), n_items, features)
        built.n_samples = n_samples
        return built

    none, fedvlr, fedmr = (built(m) for m in ("none", "fedvlr", "fedmr"))
    assert none.rate("item_table", "sgd") == pytest.approx(of_table)
    assert [m.rate("id_embedding", "sgd") for m in (fedvlr, fedmr)] == [of_d, of_d]
    assert [m.rate("personal_table", "sgd") for m in (none, fedvlr, fedmr)] == [0.1, 0.1, 0.1]
    assert built("none", lr=0.5).rate("personal_table", "sgd") == pytest.approx(of_table / 2)
    assert built("fedmr", lr=0.5).rate("personal_table", "sgd") == 15
    asked = built("none", id_lr_scale=6710.0, shared_lr=0.1)
    assert asked.rate("item_table", "sgd") == asked.rate("personal_table", "sgd") == pytest.approx(671.0)


def test_an_engine_says_how_many_samples_a_client_has(world):
    r = fl.Recipe(dataset="tiny", dim=4, method="none", negatives=2)
    engine = engine_of("stacked", r, world)
    assert engine.method.n_samples == pytest.approx(3 * world.train.lengths.mean())


def test_fedncf_steps_what_is_shared_at_another_rate_than_what_is_private():
    def rates(**given):
        r = fl.Recipe(dataset="tiny", dim=4, id_dim=6, backbone="fedncf", method="none", **given)
        method = lookup("method", "none")(r, 14, {})
        return [method.rate(n, "sgd") for n in ("backbone.user_gmf", "backbone.output.weight", "item_table")]

    assert rates() == [0.3, 1.0, 14.0]
    assert rates(lr=0.5) == [0.5, 0.5, 7.0]  # who names a rate means it for all
    assert rates(shared_lr=0.2) == pytest.approx([0.3, 0.2, 2.8])


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


def test_a_default_holds_where_items_are_many_and_clients_thin():
    data = thin()
    r = fl.Recipe(dataset="thin", backbone="fcf", method="none", rounds=5)
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
