"""Attacks: near certain where nothing is done, chance where nothing can be seen."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import fedlab_mm as fl
from fedlab_mm.attacks import report, side_of_own_items
from fedlab_mm.registry import names
from tests.conftest import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return fl.load("toy", core=8)


def recipe(**changes):
    return fl.Recipe(**{"method": "none", "dim": 16, "local_epochs": 2, **changes})


def test_undefended_uploads_give_the_history_away(data):
    table = fl.attack("items", recipe(), data, rounds=3, progress=False)
    assert table.loc["uploads", "auc low"] > 0.99 and table.loc["uploads", "tpr@1%fpr"] > 0.95
    assert table.loc["popularity alone", "auc"] < 0.75


@pytest.mark.parametrize("backbone", names("backbone"))
@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
def test_under_every_backbone_and_method(backbone, method):
    small = recipe(dataset="tiny", backbone=backbone, method=method, k=5, dim=8, id_dim=6)
    world = tiny(n_users=40, n_items=60)
    assert fl.attack("items", small, world, rounds=4, progress=False).loc["uploads", "auc"] > 0.95


def test_much_noise_and_all_rows_leave_next_to_nothing(data):
    drowned = fl.attack("items", recipe(noise=1e6, rows="all"), data, rounds=2, progress=False)
    assert abs(drowned.loc["uploads", "auc"] - 0.5) < 0.02
    rows_still_tell = fl.attack("items", recipe(noise=1e6), data, rounds=3, progress=False)
    assert rows_still_tell.loc["uploads", "auc"] > 0.9


@pytest.mark.parametrize("changes", [{"rows": "all"}, {"backbone": "pfedrec"}, {"rows": "flipped", "row_epsilon": 1.0}])
def test_noise_too_small_to_hide_a_change_hides_nothing(data, changes):
    told = fl.attack("items", recipe(noise=1e-10, **changes), data, rounds=3, progress=False)
    assert told.loc["uploads", "auc"] > 0.97  # a lie about a row hides it for a round


def test_secure_aggregation_hides_a_client_in_the_sum(data):
    hidden = fl.attack("items", recipe(), data, rounds=3, secure=True, progress=False)
    assert list(hidden.index) == ["uploads", "popularity alone"]
    assert hidden.loc["uploads", "auc"] < 0.75


def test_membership(data):
    table = fl.attack("membership", recipe(), data, rounds=2, shadows=6, progress=False)
    assert table.loc["likelihood ratio", "auc"] > 0.9
    drowned = fl.attack("membership", recipe(noise=1e6, rows="all"), data, rounds=1, shadows=4, progress=False)
    assert abs(drowned.loc["likelihood ratio", "auc"] - 0.5) < 0.05


def test_taste(data):
    table = fl.attack("taste", recipe(), data, rounds=3, progress=False)
    assert (table.filter(like="who choose by it", axis=0)["auc"] > 0.95).all()
    assert (table["auc"] > 0.65).all()


def test_the_reports_figures():
    rng = np.random.default_rng(0)
    own = rng.random((40, 60)) < 0.2
    scores = rng.normal(size=own.shape) + own
    told = report(scores, own)
    assert told["auc"] == pytest.approx(np.mean([roc_auc_score(o, s) for o, s in zip(own, scores, strict=True)]))
    assert told["auc low"] < told["auc"] < told["auc high"] and told["tpr low"] <= told["tpr@1%fpr"] <= told["tpr high"]
    flat = report(np.zeros_like(scores), own)
    assert flat["auc"] == 0.5 and flat["tpr@1%fpr"] == pytest.approx(0.01, abs=1e-3)


def test_the_line_of_a_client_is_found_whatever_its_direction():
    rng = np.random.default_rng(1)
    for _ in range(20):
        theta = rng.normal(size=6)
        residual = np.concatenate([-rng.uniform(0.2, 0.5, 10), rng.uniform(0.2, 0.5, 40)])
        place = side_of_own_items(residual[:, None] * theta * rng.choice([-1, 1]))
        assert (place[:10] > 0).all() and (place[10:] < 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("item", {}), "unknown attack 'item': did you mean 'items'"),
        (("items", {"rounds": 0}), "rounds=0"),
        (("membership", {"shadows": 1}), "shadows=1"),
    ],
)
def test_bad_arguments(world, arguments, message):
    kind, options = arguments
    with pytest.raises(fl.FedlabError, match=message):
        fl.attack(kind, recipe(dataset="tiny", k=5), world, progress=False, **options)


def test_taste_needs_planted_tastes(world):
    with pytest.raises(fl.FedlabError, match="needs planted tastes, which 'tiny' has not; 'toy' has"):
        fl.attack("taste", recipe(dataset="tiny", k=5), world, progress=False)
