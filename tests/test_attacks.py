"""Attacks: near certain where nothing is done, chance where nothing can be seen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import fedlab_mm as fl
from fedlab_mm import registry
from fedlab_mm.attacks import orient, place_on_line, report
from fedlab_mm.data import build
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


def test_a_client_that_solves_tells_much_by_its_matrix_alone(data):
    """θθᵀ is the prediction function but for a sign, and the server has the items; in a sum it is one of many."""
    closed = recipe(solver="closed", server_optimizer="adam", shared_lr=0.02, server_steps=5)
    table = fl.attack("items", closed, data, rounds=3, progress=False)
    assert table.loc["uploads", "auc"] > 0.99 and table.loc["uploads, matrix only", "auc"] > 0.8
    noisy = fl.attack("items", closed.but(noise=1e-6, rows="all"), data, rounds=3, progress=False)
    assert noisy.loc["uploads, side only", "auc"] > 0.95  # nothing but own rows moves, so their side is plain
    hidden = fl.attack("items", closed, data, rounds=3, secure=True, progress=False)
    assert list(hidden.index) == ["uploads", "popularity alone"] and hidden.loc["uploads", "auc"] < 0.75


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
        place, along = place_on_line(residual[:, None] * theta * rng.choice([-1, 1]))
        place_TI = np.pad(along * place, (0, 450))[None]
        side = (orient(place_TI, n_own=10, negatives=4) @ place_TI)[:50]
        assert (side[:10] > 0).all() and (side[10:] < 0).all() and np.mean(side**2) == pytest.approx(1)


def places(n_own, n_items, negatives, rounds, pulls, seed):
    """A client's places by the recipe: own items once, negatives as often as they are drawn, residuals unequal, and the
    sign of each round drawn."""
    rng = np.random.default_rng(seed)
    drawn_TI = rng.multinomial(negatives * n_own, [0.0] * n_own + [1 / (n_items - n_own)] * (n_items - n_own), rounds)
    pull_TI = np.array([pulls[0]] * n_own + [-pulls[1]] * (n_items - n_own)) * rng.uniform(0.8, 1.2, drawn_TI.shape)
    pull_TI += rng.normal(0, 0.02, drawn_TI.shape)  # scores are near zero, not at it
    return rng.choice([-1.0, 1.0], (rounds, 1)) * pull_TI * np.where(np.arange(n_items) < n_own, 1, drawn_TI)


@pytest.mark.parametrize("negatives", [1, 2, 4, 8])
@pytest.mark.parametrize(("n_own", "n_items"), [(10, 500), (40, 80), (70, 80)])
@pytest.mark.parametrize(("loss", "pulls"), [("bce", (0.5, 0.5)), ("squares", (4.0, 0.0))])
@pytest.mark.parametrize("rounds", [1, 5])
def test_own_items_are_told_from_negatives_by_what_the_recipe_makes_of_both(
    negatives, n_own, n_items, loss, pulls, rounds
):
    if (loss, negatives, n_own, rounds) == ("bce", 1, 10, 1):
        return  # ten rows on either side, and nothing that tells them apart
    right = 0
    for seed in range(20):
        place_TI = places(n_own, n_items, negatives, rounds, pulls, seed)
        side_I = orient(place_TI, n_own, negatives, pulls) @ place_TI
        right += (side_I[:n_own] > 0).mean() > 0.9
    assert right >= 19


@pytest.fixture(scope="module")
def dense():
    """Users who hold half to nine tenths of a small shop."""
    rng = np.random.default_rng(0)
    held = [rng.permutation(40)[: rng.integers(20, 37)] for _ in range(12)]
    rows = [(user, int(item), when) for user, items in enumerate(held) for when, item in enumerate(items)]
    features = {m: rng.normal(size=(40, 6)) for m in ("image", "text")}
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    return build("dense", log, pd.DataFrame({"title": [f"item {i}" for i in range(40)]}), features)


@pytest.mark.parametrize("backbone", names("backbone"))
@pytest.mark.parametrize("loss", ["bce", "squares"])
@pytest.mark.parametrize("negatives", [1, 2, 4, 8])
def test_no_number_of_negatives_hides_an_undefended_upload(dense, small_toy, backbone, loss, negatives):
    rates = {"lr": 0.03, "shared_lr": 0.03} if loss == "squares" else {}
    open_ = recipe(backbone=backbone, loss=loss, negatives=negatives, **rates)
    for world in (dense, small_toy):
        told = fl.attack("items", open_.but(dataset=world.name), world, rounds=3, progress=False)["auc"]
        assert told["uploads"] > 0.99 and told["uploads, side only"] > 0.9


def test_an_auc_below_one_half_is_not_passed_over(world, monkeypatch):
    def contrary(scene):
        own = scene.own_UI()
        return pd.DataFrame({"contrary": report(-own.astype(float), own)}).T

    monkeypatch.setitem(registry._FAMILIES["attack"], "contrary", contrary)
    with pytest.warns(UserWarning, match=r"'contrary': an AUC of 0.000 lies below one half.* turned round reach 1.000"):
        fl.attack("contrary", recipe(dataset="tiny", k=5), world, progress=False)


def test_membership_where_users_leave_little_or_nothing_free(dense):
    rng = np.random.default_rng(0)
    everything = pd.DataFrame([(u, i, w) for u in range(4) for w, i in enumerate(rng.permutation(40))])
    full = build(
        "full",
        everything.set_axis(["user", "item", "timestamp"], axis=1),
        pd.DataFrame({"title": [f"item {i}" for i in range(40)]}),
        {m: rng.normal(size=(40, 6)) for m in ("image", "text")},
    )
    with pytest.raises(fl.FedlabError, match="no user of full has two items of its own and leaves one free"):
        fl.attack("membership", recipe(dataset="full"), full, rounds=1, shadows=4, progress=False)
    log = pd.concat([dense.interactions, full.interactions.query("user == 0").assign(user=12)], ignore_index=True)
    users = pd.DataFrame({"user": range(13), "id": range(13)})
    mixed = replace(dense, name="mixed", interactions=log, users=users)
    with pytest.warns(UserWarning, match="leaves out 1 of 13 users"):
        table = fl.attack("membership", recipe(dataset="mixed"), mixed, rounds=1, shadows=4, progress=False)
    assert table.loc["likelihood ratio", "users"] == 12 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("item", {}), "unknown attack 'item': did you mean 'items'"),
        (("items", {"rounds": 0}), "rounds=0: must be a whole number, at least 1"),
        (("items", {"rounds": 1.5}), "rounds=1.5: must be a whole number, at least 1"),
        (("items", {"rounds": float("nan")}), "rounds=nan: must be a whole number"),
        (("items", {"rounds": True}), "rounds=True: must be a whole number"),
        (("membership", {"shadows": 1}), "shadows=1: must be a whole number, at least 4"),
        (("membership", {"shadows": 4.0}), "shadows=4.0: must be a whole number"),
    ],
)
def test_bad_arguments(world, arguments, message):
    kind, options = arguments
    with pytest.raises(fl.FedlabError, match=message):
        fl.attack(kind, recipe(dataset="tiny", k=5), world, progress=False, **options)


def test_taste_needs_planted_tastes(world):
    with pytest.raises(fl.FedlabError, match="needs planted tastes, which 'tiny' has not; 'toy' has"):
        fl.attack("taste", recipe(dataset="tiny", k=5), world, progress=False)


@pytest.mark.parametrize("n_items", [60, 64])
def test_a_layer_as_long_as_the_catalogue_or_longer_is_not_read_as_items(n_items):
    """PFedRec sends its items whole, and FedMR's layers have 64 and 128 rows."""
    world = tiny(n_users=24, n_items=n_items)
    whole = fl.Recipe(dataset="tiny", backbone="pfedrec", method="fedmr", id_dim=6, k=5)
    told = fl.attack("items", whole, world, rounds=2, progress=False)
    assert told.loc["uploads", "auc"] > 0.95
