"""The toy set is frozen: methods are tuned and compared on it, so it must not move under them."""

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from fedlab_mm.registry import lookup


@pytest.fixture(scope="module")
def toy():
    return lookup("dataset", "toy").load()


def test_the_generator_has_not_moved(toy):
    assert toy.fingerprint == "156dbcc2e3c572107ab96deffc36db43939e6c1edfde866e5841bf56ebf969ab"
    assert (
        hashlib.sha256(toy.covers.tobytes()).hexdigest()
        == "4faf2b6d182dd3a9203ecdd805eb96bdf9a42aab47555a9463beefd85e04abdf"
    )
    truth = b"".join(np.rint(np.asarray(toy.truth[k]) * 1e6).astype("<i8").tobytes() for k in sorted(toy.truth))
    assert hashlib.sha256(truth).hexdigest() == "9ebeeaac41db5ddb417dfbd8116fd4ce5379921e2002ffc5487c0b4b361e0201"


def test_a_seed_makes_a_world_of_its_own(toy):
    load = lookup("dataset", "toy").load
    assert load(seed=0).fingerprint == toy.fingerprint
    assert load(seed=1).fingerprint != toy.fingerprint


def test_size_split_and_order(toy):
    assert (toy.n_users, toy.n_items, len(toy.interactions)) == (300, 500, 8000)
    assert toy.train.lengths.min() >= 4
    for _, log in toy.interactions.groupby("user"):
        assert log["timestamp"].is_monotonic_increasing
        assert log["split"].tolist() == ["train"] * (len(log) - 2) + ["valid", "test"]


def test_the_three_kinds_are_independent(toy):
    kinds = [toy.truth[k] for k in ("style_I", "topic_I", "cluster_I")]
    for a in range(3):
        for b in range(a):
            table = np.histogram2d(kinds[a], kinds[b], bins=8)[0]
            expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            chi2 = ((table - expected) ** 2 / expected).sum()
            assert chi2 < 85.4  # 0.999 quantile of chi-squared with 49 degrees of freedom


@pytest.mark.parametrize(("modality", "kind"), [("image", "style_I"), ("text", "topic_I")])
def test_the_encoder_sees_what_was_drawn_and_written(toy, modality, kind):
    features = toy.features[modality].numpy()
    assert features.shape == (500, 512)
    assert np.allclose(np.linalg.norm(features, axis=1), 1)
    probe = LogisticRegression(max_iter=2000, C=100)
    assert cross_val_score(probe, features, toy.truth[kind], cv=5).mean() > 0.95
    other = "topic_I" if kind == "style_I" else "style_I"
    assert cross_val_score(probe, features, toy.truth[other], cv=5).mean() < 0.25


def test_users_follow_their_reliance(toy):
    """Who leans on one signal finds most of its items among the two kinds it likes there."""
    names = ("style_I", "topic_I", "cluster_I")
    share = np.zeros((3, 3))
    for leans in range(3):
        for s, name in enumerate(names):
            hits = [
                np.isin(toy.truth[name][toy.train[u]], toy.truth["taste_USK"][u, s].argsort()[-2:]).mean()
                for u in np.flatnonzero(toy.truth["leans_U"] == leans)
            ]
            share[leans, s] = np.mean(hits)
    assert (np.diag(share) > 0.8).all()
    assert (share[~np.eye(3, dtype=bool)] < 0.4).all()
