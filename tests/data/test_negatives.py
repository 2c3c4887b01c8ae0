"""What a client samples: all its positives, negatives it cannot tell from held-out items, independent of company."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

import fedlab_mm as fl
from fedlab_mm.data.negatives import draw, sample
from fedlab_mm.records import Histories


def test_positives_once_and_negatives_never_among_them(toy):
    samples = sample(toy.train, toy.n_items, np.arange(toy.n_users), 4, seed=0, round=3)
    assert (samples.lengths == 5 * toy.train.lengths).all()
    for c in range(toy.n_users):
        items, labels = samples.of(c)
        assert np.array_equal(items[labels == 1], toy.train[c])
        assert not np.isin(items[labels == 0], toy.train[c]).any()


def test_negatives_are_uniform_over_what_the_user_does_not_hold():
    train = Histories.from_pairs([0] * 4, [0, 3, 4, 9], n_users=1)
    drawn = np.concatenate([sample(train, 10, np.array([0]), 100, 0, t).items[4:] for t in range(1, 101)])
    counts = np.bincount(drawn, minlength=10)
    assert (counts[[0, 3, 4, 9]] == 0).all()
    assert chisquare(counts[[1, 2, 5, 6, 7, 8]]).pvalue > 0.001


def test_held_out_items_come_up_like_any_other(toy):
    """A client that never drew its own test target as a negative would have been told of it."""
    clients, targets = np.arange(toy.n_users), toy.target_U("test")
    times = 0
    for t in range(1, 40):
        samples = sample(toy.train, toy.n_items, clients, 4, 0, t)
        times += sum(int((samples.of(c)[0] == targets[c]).sum()) for c in clients)
    expected = 39 * (4 * toy.train.lengths / (toy.n_items - toy.train.lengths)).sum()
    assert abs(times - expected) < 5 * np.sqrt(expected)


def test_a_client_draws_the_same_in_any_company_and_anew_each_round(toy):
    alone = sample(toy.train, toy.n_items, np.array([7]), 4, seed=1, round=2)
    company = sample(toy.train, toy.n_items, np.array([250, 7, 3]), 4, seed=1, round=2)
    assert np.array_equal(alone.items, company.of(1)[0])
    assert np.array_equal(company.take(np.array([2, 1])).of(1)[0], alone.items)
    for seed, t in ((1, 3), (2, 2)):
        assert not np.array_equal(alone.items, sample(toy.train, toy.n_items, np.array([7]), 4, seed, t).items)


def test_generators_of_neighbouring_clients_rounds_and_seeds_are_unrelated():
    streams = [
        draw(seed, t, np.array([client]), np.array([4000]), np.array([1 << 20]))
        for seed in (0, 1)
        for t in (1, 2)
        for client in (0, 1)
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.07  # 4.4 standard errors of 28 pairs


@pytest.mark.parametrize("weights", [None, np.array([3, 1])])
def test_a_user_who_holds_everything_has_no_negatives(weights):
    train = Histories.from_pairs([0, 1, 1], [0, 0, 1], n_users=2)
    samples = sample(train, 2, np.array([1, 0]), 4, 0, 1, weights)
    assert [part.tolist() for part in samples.of(0)] == [[0, 1], [1, 1]]
    assert [part.tolist() for part in samples.of(1)] == [[0, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    alone = sample(train, 2, np.array([1]), 4, 0, 1, weights)
    assert alone.items.tolist() == [0, 1] and alone.labels.all()


def test_under_one_clock_such_a_user_is_trained_with_the_others(recipe):
    """User 0 took all six items before the rest took their last."""
    rng = np.random.default_rng(0)
    rows = [(0, i, i) for i in range(6)]
    rows += [(u, i, 10 * t + u) for u in range(1, 9) for t, i in enumerate(rng.permutation(6)[:5])]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    data = fl.from_frames(log, split="temporal", held_out=0.4, progress=False)
    assert data.train.lengths[0] == data.n_items == 6 and data.target_U("test")[0] == -1
    recipe = recipe.but(dataset="frames", backbone="fcf", k=2, rounds=2)
    runs = [fl.train(recipe.but(engine=engine), data, progress=False) for engine in ("loop", "stacked")]
    assert runs[0].test == pytest.approx(runs[1].test) and np.isfinite(runs[0].history["value"]).all()


def test_by_popularity_an_item_is_drawn_as_often_as_its_weight_says():
    train = Histories.from_pairs([0] * 4 + [1], [0, 3, 4, 9, 2], n_users=2)
    weights = np.array([5, 1, 2, 30, 4, 1, 7, 3, 1, 2])
    clients = np.array([1, 0])
    drawn = [sample(train, 10, clients, 100, 0, t, weights) for t in range(1, 101)]
    for c, held in ((0, [2]), (1, [0, 3, 4, 9])):
        items = np.concatenate([s.of(c)[0][s.of(c)[1] == 0] for s in drawn])
        counts = np.bincount(items, minlength=10)
        assert (counts[held] == 0).all()
        free = np.setdiff1d(np.arange(10), held)
        assert chisquare(counts[free], counts.sum() * weights[free] / weights[free].sum()).pvalue > 0.001


def test_equal_weights_draw_what_no_weights_draw(toy):
    clients = np.arange(toy.n_users)
    plain = sample(toy.train, toy.n_items, clients, 4, 0, 3)
    assert np.array_equal(plain.items, sample(toy.train, toy.n_items, clients, 4, 0, 3, np.ones(500, int)).items)


def test_both_engines_train_with_negatives_by_popularity(world, recipe):
    runs = [
        fl.train(recipe.but(engine=e, negatives_by="popularity", precision="float64"), world, progress=False)
        for e in ("loop", "stacked")
    ]
    assert runs[0].scores_UI.numpy() == pytest.approx(runs[1].scores_UI.numpy(), abs=1e-9)
    uniform = fl.train(recipe.but(precision="float64"), world, progress=False)
    assert abs(uniform.scores_UI - runs[1].scores_UI).max() > 1e-6
