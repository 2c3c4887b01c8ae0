"""Baselines of clicks, their metrics against scikit-learn, and the sizes of the models against the paper's table."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

import fedlab_mm as fl
from fedlab_mm.centralised.clicks import history
from fedlab_mm.evaluation import evaluate_clicks, paired_auc
from fedlab_mm.registry import lookup, names
from fedlab_mm.reported import reported
from fedlab_mm.sequential import count_click_parameters


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    user, click = rng.integers(0, 30, 400), rng.integers(0, 2, 400)
    logit = (rng.normal(size=400) + click).round(1)  # with ties
    found = evaluate_clicks(logit, click, user)
    assert found["auc"] == pytest.approx(roc_auc_score(click, logit))
    assert found["logloss"] == pytest.approx(log_loss(click, 1 / (1 + np.exp(-logit))))
    table = pd.DataFrame({"user": user, "click": click, "logit": logit})
    both = [t for _, t in table.groupby("user") if 0 < t["click"].mean() < 1]
    aucs, sizes = [roc_auc_score(t["click"], t["logit"]) for t in both], [len(t) for t in both]
    assert found["gauc"] == pytest.approx(np.average(aucs, weights=sizes))


def test_users_of_one_class_have_no_auc():
    found = evaluate_clicks([1.0, 2.0, 0.0], [1, 1, 0], [0, 0, 1])
    assert np.isnan(found["gauc"]) and found["auc"] == 1.0
    assert np.isnan(evaluate_clicks([1.0, 2.0], [1, 1], [0, 1])["auc"])
    with pytest.raises(fl.FedlabError, match="logit of showing 1 is NaN"):
        evaluate_clicks([1.0, np.nan], [1, 0], [0, 1])


def test_a_paired_difference_of_auc():
    rng = np.random.default_rng(1)
    click = rng.integers(0, 2, 300)
    base = pd.DataFrame({"user": np.arange(300), "click": click, "seed": 0})
    good, poor = (base.assign(logit=s * click + rng.normal(size=300)) for s in (2.0, 0.1))
    found = paired_auc(good, poor, resamples=199)
    expected = roc_auc_score(click, good["logit"]) - roc_auc_score(click, poor["logit"])
    assert found["difference"] == pytest.approx(expected)
    assert 0 < found["low"] < found["difference"] < found["high"] and found["p"] < 0.02
    assert paired_auc(good, good, resamples=19)["p"] == 1.0


def test_history_by_hand(log):
    """Before each showing only what came before it."""
    past, table = history(log), log.interactions
    overall = table["click"][table["split"] == "train"].mean()
    for row in np.flatnonzero(table["user"] == 5):
        before = table["click"][(table["user"] == 5) & (table.index < row)]
        assert past["rate"][row] == pytest.approx((before.sum() + 5 * overall) / (len(before) + 5))
        assert past["shown"][row] == len(before)
        assert past["last"][row] == pytest.approx(before.iloc[-1] if len(before) else overall)
        assert past["recent"][row] == pytest.approx(before.tail(10).mean() if len(before) else overall)


@pytest.mark.parametrize("name", names("click baseline"))
def test_baselines_predict_each_showing(log, name):
    logits = lookup("click baseline", name)().predict(log, "test")
    assert logits.shape == (log.n_users,) and np.isfinite(logits).all()


@pytest.mark.parametrize("name", names("click baseline"))
def test_baselines_do_not_look_ahead(log, name):
    """What is clicked in the test changes no prediction of it."""
    flipped = log.interactions.copy()
    test = flipped["split"] == "test"
    flipped.loc[test, "click"] = 1 - flipped.loc[test, "click"]
    other = dataclasses.replace(log, interactions=flipped)
    baseline = lookup("click baseline", name)()
    np.testing.assert_allclose(baseline.predict(log, "test"), baseline.predict(other, "test"))


def test_kuaisar(kuaisar):
    """The user's own rate, as published beside the data; parameters within two percent of MRFF's Table 3."""
    shown = kuaisar.interactions[kuaisar.interactions["split"] == "test"]
    logits = lookup("click baseline", "user rate")().predict(kuaisar, "test")
    found = evaluate_clicks(logits, shown["click"], shown["user"])
    assert found["auc"] == pytest.approx(0.690, abs=3e-3) and found["logloss"] == pytest.approx(0.635, abs=3e-3)
    table = reported("mrff_table3")
    table = table[(table["dataset"] == "kuaisar-r") & (table["metric"] == "parameters")].set_index("backbone")["value"]
    for backbone, printed in table.items():
        recipe = fl.Recipe(backbone=f"fed{backbone}", method="mrff")
        assert count_click_parameters(recipe, kuaisar.attributes)["total"] == pytest.approx(printed, rel=0.02)
