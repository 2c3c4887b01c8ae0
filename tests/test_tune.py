"""Searching on validation, stopping early, and the test that compares rows."""

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.evaluation import paired_test
from fedlab_mm.experiments import tune

GRID = {"lr": [0.1, 1e12, 0.5], "operators": [("sum",), ("gate",)]}


@pytest.fixture
def quick(recipe):
    return recipe.but(rounds=3, shared_lr=None)


def test_tune_returns_the_setting_that_validates_best(world, quick):
    best = fl.tune(quick, GRID, world, progress=False)
    valid = {}
    for lr in (0.1, 0.5):
        for operators in GRID["operators"]:
            r = quick.but(lr=lr, operators=operators)
            valid[r] = fl.train(r, world, progress=False).best_valid
    assert best == max(valid, key=valid.get)


def test_a_search_goes_on_where_it_stopped(world, quick, tmp_path, monkeypatch):
    whole = fl.tune(quick, GRID, world, progress=False)
    trained, train = [], tune.train

    def until_the_third(recipe, *rest, **more):
        trained.append(recipe)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train(recipe, *rest, **more)

    monkeypatch.setattr(tune, "train", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        fl.tune(quick, GRID, world, tmp_path / "s", progress=False)
    assert len(pd.read_csv(tmp_path / "s" / "tuning.csv")) == 2
    assert fl.tune(quick, GRID, world, tmp_path / "s", progress=False) == whole
    assert len(trained) == 3 + 4  # two were kept
    table = pd.read_csv(tmp_path / "s" / "tuning.csv")
    assert table["valid"].isna().sum() == 2  # the learning rate that diverges
    run = fl.load_run(tmp_path / "s" / "best", world)
    assert run.recipe == whole and run.best_valid == pytest.approx(table["valid"].max())
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s" / "best" / "tuning.csv"), table)
    fl.tune(quick, GRID, world, tmp_path / "s", progress=False)
    assert len(trained) == 7
    with pytest.raises(fl.FedlabError, match="holds a search of other recipe: choose"):
        fl.tune(quick.but(rounds=2), GRID, world, tmp_path / "s", progress=False)


def test_a_grid_may_grow_and_the_kept_run_is_the_returned_one(world, quick, tmp_path):
    folder = tmp_path / "s"
    first = fl.tune(quick, {"lr": [0.1, 0.5]}, world, folder, progress=False)
    second = fl.tune(quick, {"lr": [0.001]}, world, folder, progress=False)
    assert second == quick.but(lr=0.001) != first
    assert fl.load_run(folder / "best", world).recipe == second
    table = pd.read_csv(folder / "tuning.csv")
    assert list(table["setting"]) == [f'{{"lr": {lr}}}' for lr in (0.1, 0.5, 0.001)]
    assert fl.tune(quick, {"lr": np.array([0.001, 0.1, 0.5])}, world, folder, progress=False) == first
    assert fl.load_run(folder / "best", world).recipe == first
    pd.testing.assert_frame_equal(pd.read_csv(folder / "tuning.csv"), table)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "best" / "tuning.csv"), table)
    (folder / "tuning.csv").write_text("a,b\n1,2\n", encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"tuning\.csv is damaged"):
        fl.tune(quick, {"lr": [0.1]}, world, folder, progress=False)


def test_a_setting_may_be_judged_by_several_seeds(world, quick, tmp_path):
    best = fl.tune(quick, {"lr": [0.1, 0.5]}, world, tmp_path / "s", progress=False, seeds=[3, 4])
    table = pd.read_csv(tmp_path / "s" / "tuning.csv")
    for lr, valid in zip([0.1, 0.5], table["valid"], strict=True):
        runs = [fl.train(quick.but(lr=lr, seed=s), world, progress=False) for s in (3, 4)]
        assert valid == pytest.approx(np.mean([run.best_valid for run in runs]))
    assert best == quick.but(lr=[0.1, 0.5][table["valid"].argmax()])
    with pytest.raises(fl.FedlabError, match="holds a search of other seeds"):
        fl.tune(quick, {"lr": [0.1, 0.5]}, world, tmp_path / "s", progress=False)


def test_several_grids_are_tried_one_after_the_other(world, quick, tmp_path):
    fl.tune(quick, [{"lr": [0.1]}, {"optimizer": ["adam"], "lr": [0.01, 0.02]}], world, tmp_path / "s", progress=False)
    assert len(pd.read_csv(tmp_path / "s" / "tuning.csv")) == 3


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "the grid is empty"),
        ({"lr": []}, "the grid is empty"),
        ({"rate": [1]}, "a Recipe has no rate"),
        ({"lr": [0.1, -1.0]}, "lr=-1.0: must be a positive number"),
        ({"lr": 0.1}, "the grid's lr must be a list of values; got 0.1"),
        ({"optimizer": "adam"}, "the grid's optimizer must be a list of values; got 'adam'"),
        (["lr"], "a grid maps fields to their values"),
        ({"seed": [0, 1]}, "the grid has seed: it decides what is measured"),
        ({"lr": [1e12]}, "every setting of the grid diverged"),
    ],
)
def test_grids_that_are_refused(world, quick, grid, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.tune(quick, grid, world, progress=False)


def test_a_search_needs_a_seed(world, quick):
    with pytest.raises(fl.FedlabError, match="seeds is empty"):
        fl.tune(quick, {"lr": [0.1]}, world, progress=False, seeds=[])
    with pytest.raises(fl.FedlabError, match=r"seed=0\.5: must be a whole number"):
        fl.tune(quick, {"lr": [0.1]}, world, progress=False, seeds=[0.5])


def test_training_stops_when_validation_has_not_risen(world, recipe, tmp_path):
    r = recipe.but(rounds=40, patience=3)
    run = fl.train(r, world, progress=False)
    assert run.rounds_done == run.best_round + 3 < 40
    part = fl.train(r.but(rounds=run.best_round + 1), world, progress=False)
    resumed = fl.train(r, world, progress=False, resume=fl.load_run(part.save(tmp_path / "a"), world))
    assert (resumed.rounds_done, resumed.best_round) == (run.rounds_done, run.best_round)
    assert dict(resumed.test) == dict(run.test)


def test_paired_differences_of_a_comparison(world, quick):
    table = fl.compare([quick, quick.but(method="none")], seeds=range(2), data=world, progress=False)
    users = table.attrs["users"]
    assert len(users) == (4 + 2 * 2) * world.n_users
    row = fl.paired(table, "fcf + fedvlr", "fcf + none", "ndcg@5")
    means = users.groupby("row")["ndcg@5"].mean()
    assert row["difference"] == pytest.approx(means["fcf + fedvlr"] - means["fcf + none"])
    assert row["low"] <= row["difference"] <= row["high"] and 0 < row["p"] <= 1
    warm = fl.paired(table, "ease", "popularity", "hr@5", "warm")
    assert warm["users"] == world.warm_I[world.target_U("test")].sum()
    assert set(table.attrs["valid"]) == {"fcf + fedvlr", "fcf + none"}
    with pytest.raises(fl.FedlabError, match="there is no row 'bpr'; there are: popularity"):
        fl.paired(table, "bpr", "ease", "hr@5")
    with pytest.raises(fl.FedlabError, match="unknown targets 'hot': there are: all, warm, cold"):
        fl.paired(table, "ease", "popularity", "hr@5", "hot")
    with pytest.raises(fl.FedlabError, match="unknown metric 'hr@50': there are: hr@5, ndcg@5"):
        fl.paired(table, "ease", "popularity", "hr@50")
    with pytest.raises(fl.FedlabError, match="give paired the table that compare returned"):
        fl.paired(pd.DataFrame(index=table.index), "ease", "popularity", "hr@5")


@pytest.mark.slow
def test_the_paired_test_holds_its_level_and_finds_a_difference():
    rng = np.random.default_rng(0)
    null = [paired_test(rng.normal(size=30))["p"] for _ in range(60)]
    assert 0 <= np.mean(np.array(null) < 0.05) <= 0.15
    assert paired_test(rng.normal(1, 1, size=30))["p"] < 0.001
    assert paired_test(np.zeros(5))["p"] == 1
    alone = paired_test(np.array([0.5]))
    assert (alone["difference"], alone["users"]) == (0.5, 1) and np.isnan(alone["p"])
    assert np.isnan(paired_test(np.array([]))["difference"])
    with pytest.raises(fl.FedlabError, match="the difference of user 1 is not finite"):
        paired_test(np.array([0.1, np.nan]))
