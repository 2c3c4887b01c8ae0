"""Several targets a user: exact in expectation over ties, against drawn orders, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.evaluation import evaluate_several, evaluate_users, evaluate_users_of_several
from fedlab_mm.evaluation.several import METRICS
from tests.conftest import tiny


def by_hand(order, targets, k):
    """All metrics of one ranking without ties."""
    hit = np.isin(order[:k], targets)
    places = np.flatnonzero(hit) + 1
    ideal = sum(1 / np.log2(p + 1) for p in range(1, min(len(targets), k) + 1))
    return {
        "recall": hit.sum() / len(targets),
        "ndcg": sum(1 / np.log2(p + 1) for p in places) / ideal,
        "precision": hit.sum() / k,
        "map": sum((n + 1) / p for n, p in enumerate(places)) / min(len(targets), k),
        "mrr": 1 / places[0] if len(places) else 0.0,
        "hr": float(len(places) > 0),
    }


@pytest.mark.parametrize("k", [1, 3, 7, 12])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_ties_are_the_mean_over_drawn_orders(k, levels):
    rng = np.random.default_rng(levels + k)
    scores_I, targets = rng.integers(0, levels, 12).astype(float), rng.choice(12, 4, replace=False)
    exact = evaluate_users_of_several(scores_I[None], [targets.tolist()], [[]], k=k).iloc[0]
    drawn = [by_hand(np.lexsort((rng.random(12), -scores_I)), targets, k) for _ in range(4000)]
    for name in METRICS:
        values = np.array([d[name] for d in drawn])
        assert exact[f"{name}@{k}"] == pytest.approx(values.mean(), abs=4 * values.std() / 4000**0.5 + 1e-9), name


def test_against_scikit_learn_where_nothing_ties():
    rng = np.random.default_rng(0)
    scores_UI = rng.random((6, 30))
    truth_UI = rng.random((6, 30)) < 0.2
    truth_UI[:, 0] = True
    ours = evaluate_users_of_several(scores_UI, truth_UI, np.zeros_like(truth_UI), k=[5, 30])
    for u in range(6):
        row = ours.loc[u]
        assert row["ndcg@5"] == pytest.approx(ndcg_score(truth_UI[u : u + 1], scores_UI[u : u + 1], k=5))
        assert row["map@30"] == pytest.approx(average_precision_score(truth_UI[u], scores_UI[u]))


def test_one_target_is_what_the_other_evaluation_says():
    rng = np.random.default_rng(1)
    scores_UI = rng.integers(0, 5, (8, 20)).astype(float)
    target_U = rng.integers(0, 20, 8)
    seen = [[int((t + 1) % 20)] for t in target_U]
    for ties in ("expected", "index"):
        one = evaluate_users(scores_UI, target_U, seen, k=6, ties=ties)
        ours = evaluate_users_of_several(scores_UI, [[int(t)] for t in target_U], seen, k=6, ties=ties)
        for name, other in (("recall", "hr"), ("hr", "hr"), ("ndcg", "ndcg")):
            np.testing.assert_allclose(ours[f"{name}@6"], one[f"{other}@6"], atol=1e-12)


def test_users_without_a_target_are_not_asked_and_several_cut_offs_are_told():
    told = evaluate_users_of_several([[3.0, 2, 1], [1, 2, 3]], [[], [0, 1]], [[], []], k=[1, 2])
    assert told.index.tolist() == [1] and told["targets"].tolist() == [2]
    assert set(told) == {"targets", *(f"{m}@{k}" for m in METRICS for k in (1, 2))}
    assert evaluate_several([[3.0, 2, 1], [1, 2, 3]], [[], [0, 1]], [[], []], k=2)["recall@2"] == 0.5


@pytest.mark.parametrize(
    ("targets", "seen", "k", "message"),
    [
        ([[], []], [[], []], 1, "no user has a target"),
        ([[0], [1]], [[0], []], 1, "user 0's target 0 is among its seen items"),
        ([[0], [7]], [[], []], 1, "users and items from 0 to 2"),
        ([[0], [1]], [[], []], 4, "k=4: must lie between 1 and the number of items, 3"),
        ([[0], [1]], [[], []], [], "k is empty"),
    ],
)
def test_bad_input(targets, seen, k, message):
    with pytest.raises(fl.FedlabError, match=message):
        evaluate_several([[3.0, 2, 1], [1, 2, 3]], targets, seen, k=k)


def test_a_run_on_a_random_split_is_judged_by_all_its_targets():
    rng = np.random.default_rng(0)
    world = tiny(n_users=12, n_items=20)
    log = world.interactions.copy()
    log["split"] = rng.choice(["train", "valid", "test"], len(log), p=[0.6, 0.2, 0.2])
    log.loc[log.groupby("user").head(1).index, "split"] = "train"
    data = build("random", log, world.items[["title"]], {m: f.numpy() for m, f in world.features.items()})
    assert data.several
    recipe = fl.Recipe(dataset="random", k=5, dim=4, id_dim=6, rounds=3)
    run = fl.train(recipe, data, progress=False)
    targets = data.targets("test")
    by_hand = evaluate_several(run.scores_UI, targets, data.train, k=5)
    assert {m: run.test[m] for m in by_hand} == pytest.approx(by_hand)
    assert run.goal == "ndcg@5"
    table = fl.compare([recipe, recipe.but(method="none")], [0], data, progress=False)
    assert table.loc["fcf + none", ("recall@5", "mean")] >= 0
    assert fl.paired(table, "fcf + fedvlr", "popularity", "recall@5")["users"] == (targets.lengths > 0).sum()
    assert run.recommend(int(np.flatnonzero(targets.lengths > 1)[0]), k=3).shape[0] == 3
