"""The generated click log holds what it says was planted."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

import fedlab_mm as fl


def test_what_was_planted_is_there():
    log = fl.load("toy-clicks")
    table, truth = log.interactions, log.truth
    assert (log.n_users, log.n_items) == (300, 800) and 9_000 < len(table) < 15_000
    assert abs(table["click"].mean() - truth["chance_N"].mean()) < 0.01
    for low, high in ((0.2, 0.3), (0.7, 0.8)):
        there = (truth["chance_N"] > low) & (truth["chance_N"] < high)
        assert abs(table["click"][there].mean() - truth["chance_N"][there].mean()) < 0.04
    region = log.users["region"].to_numpy()
    assert 0.5 < (region == truth["group_U"]).mean() < 0.75


def test_a_chance_by_hand():
    log = fl.load("toy-clicks", seed=3)
    table, truth = log.interactions, log.truth
    kind_I = log.items["kind"].to_numpy()
    rows = np.flatnonzero(table["user"] == 7)
    kinds = kind_I[table["item"].to_numpy()[rows]]
    for n in (0, 1, 2, 3, 8):
        same = (kinds[max(0, n - 3) : n] == kinds[n]).sum()
        liked = truth["liking_GK"][truth["group_U"][7], kinds[n]] + truth["quality_I"][table["item"].iloc[rows[n]]]
        assert logit(truth["chance_N"][rows[n]]) == pytest.approx(truth["rate_U"][7] + liked - 1.5 * same / 3)


def test_a_seed_is_a_log():
    assert fl.load("toy-clicks").fingerprint == fl.load("toy-clicks").fingerprint
    assert fl.load("toy-clicks").fingerprint != fl.load("toy-clicks", seed=1).fingerprint


def test_several_held_out():
    log = fl.load("toy-clicks", last=4)
    sizes = log.interactions.groupby(["user", "split"]).size().unstack()
    assert (sizes["test"] == 4).all() and (sizes["valid"] == 4).all() and (sizes["train"] >= 1).all()
    truth = log.truth["chance_N"][(log.interactions["split"] == "test").to_numpy()]
    assert roc_auc_score(log.interactions["click"][log.interactions["split"] == "test"], truth) > 0.7
    with pytest.raises(fl.FedlabError, match="last=0: how many showings"):
        fl.load("toy-clicks", last=0)
    with pytest.raises(fl.FedlabError, match="toy-clicks has no option core"):
        fl.load("toy-clicks", core=5)


def test_the_truth_is_of_those_who_are_left():
    log = fl.load("toy-clicks", last=8)
    assert log.n_users < 300
    assert len(log.truth["group_U"]) == len(log.truth["rate_U"]) == log.n_users
    assert len(log.truth["chance_N"]) == len(log.interactions)
