"""Ranking metrics against the mean over random tie-breaks, scikit-learn, and published figures."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import ndcg_score

import fedlab_mm as fl
from fedlab_mm.evaluation import (
    evaluate_blocks,
    evaluate_clicks,
    evaluate_split,
    evaluate_users,
    paired_auc,
    paired_test,
)
from fedlab_mm.registry import lookup


def test_by_hand():
    scores = [[0.1, 0.9, 0.5, 0.7], [4, 3, 2, 1]]
    users = evaluate_users(scores, target_U=[2, 3], seen=[[1], [0]], k=2)
    assert users["above"].tolist() == [1, 2]  # user 0: item 3 above item 2, item 1 masked; user 1: items 1, 2
    assert users["hr@2"].tolist() == [1, 0]
    assert users["ndcg@2"].tolist() == pytest.approx([1 / np.log2(3), 0])


@pytest.mark.slow
def test_expected_ties_are_the_mean_over_random_tie_breaks():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (6, 12)).astype(float)
    target = rng.integers(0, 12, 6)
    seen = [[i for i in rng.permutation(12)[:3] if i != t] for t in target]
    exact = evaluate_users(scores, target, seen, k=4)
    n, hits, gains = 5_000, np.zeros(6), np.zeros(6)
    for _ in range(n):
        broken = evaluate_users(scores + 1e-6 * rng.random(scores.shape), target, seen, k=4, ties="index")
        hits += broken["hr@4"] / n
        gains += broken["ndcg@4"] / n
    # Four standard errors of a mean of 5,000 numbers in [0, 1].
    assert np.abs(hits - exact["hr@4"]).max() < 0.03
    assert np.abs(gains - exact["ndcg@4"]).max() < 0.03


@pytest.mark.parametrize("k", [1, 5, 20])
def test_ndcg_agrees_with_scikit_learn_ties_included(k):
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, (50, 20)).astype(float)
    target = rng.integers(0, 20, 50)
    ours = fl.evaluate(scores, target, [[]] * 50, k=k)[f"ndcg@{k}"]
    assert ours == pytest.approx(ndcg_score(np.eye(20)[target], scores, k=k))


def test_index_ties_put_the_lower_item_first():
    scores = torch.zeros(3, 4)
    users = evaluate_users(scores, [0, 1, 3], [[], [0], []], k=1, ties="index")
    assert users["above"].tolist() == [0, 0, 3]


def test_warm_and_cold_targets_apart():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    result = fl.evaluate(scores, [0, 2, 1], [[]] * 3, k=1, warm_I=[True, True, False])
    assert (result["hr@1/warm"], result["hr@1/cold"]) == (0.5, 0.0)
    assert "hr@1/cold" not in fl.evaluate(scores, [0, 1, 1], [[]] * 3, k=1, warm_I=[True] * 3)


def test_seen_may_be_a_mask_lists_or_histories(world):
    scores = torch.randn(world.n_users, world.n_items, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((world.n_users, world.n_items), dtype=bool)
    mask[world.train.users, world.train.items] = True
    lists = [world.train[u] for u in range(world.n_users)]
    results = [fl.evaluate(scores, world.target_U("test"), seen, k=5) for seen in (world.train, mask, lists)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64]
)
def test_counts_are_right_whatever_the_scores_are_made_of(dtype):
    """Half precision counts to 2,048, bfloat16 to 256."""
    n = 70_000
    users = evaluate_users(torch.zeros(1, n, dtype=dtype), [1], [[0]])
    assert users["tied"].tolist() == [n - 1] and users["hr@50"].tolist() == pytest.approx([50 / (n - 1)], rel=1e-12)
    first = torch.tensor([[0] * 3_000 + [1]], dtype=dtype)
    assert evaluate_users(first, [7], [[]], k=2)[["above", "tied"]].iloc[0].tolist() == [1, 3_000]
    listed = fl.recommended(first, [[]], k=2)
    assert listed[0, -1] == 1 and listed[0, 0].item() == pytest.approx(1 / 3_000)
    assert evaluate_users(first, [7], [[]], k=10, ties="index")["above"].tolist() == [8]


def test_scores_that_differ_by_little_are_not_ties():
    near = [[1.0, 1.0 + 1e-12]]  # as single precision they would be one number
    assert evaluate_users(near, [0], [[]], k=1)["above"].tolist() == [1]
    for large in (np.array([[2**53, 2**53 + 1]]), np.array([[2**64 - 2, 2**64 - 1]], dtype=np.uint64)):
        assert evaluate_users(large, [0], [[]], k=1)["above"].tolist() == [1]
        assert fl.recommended(large, [[]], k=1).tolist() == [[0, 1]]


def test_a_frame_is_read_where_its_labels_are_the_numbers():
    scores = np.array([[0.1, 0.9, 0.5], [4, 3, 2]])
    frame = pd.DataFrame(scores)
    assert fl.evaluate(frame, pd.Series([2, 1]), pd.DataFrame(scores > 3), k=1) == {"hr@1": 0.5, "ndcg@1": 0.5}
    assert fl.evaluate(scores[:, ::-1], [0, 1], [[], []], k=1) == {"hr@1": 0.0, "ndcg@1": 0.0}
    with pytest.raises(fl.FedlabError, match=r"labels are not 0, 1, 2, …: bring its rows .* scores.to_numpy\(\)"):
        fl.evaluate(frame[[2, 0, 1]], [2, 1], [[], []], k=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 4}, "k=4: must lie between 1 and the number of items, 3"),
        ({"k": 0}, "k=0"),
        ({"ties": "random"}, "unknown ties 'random'"),
        ({"target_U": [0]}, "1 targets for 2 rows"),
        ({"target_U": [0, 3]}, "outside the items 0 to 2"),
        ({"scores_UI": [[1.0, 2, 3], [1, float("nan"), 3]]}, "scores of user 1 hold a NaN"),
        ({"seen": [[0], [1]]}, "user 0's target 0 is among its seen"),
        ({"seen": [[0]]}, "seen does not fit"),
        ({"k": 1.0}, "k=1.0: must be a whole number, at least 1"),
        ({"k": True}, "k=True: must be a whole number"),
        ({"scores_UI": [1.0, 2, 3]}, r"scores_UI has shape \(3,\): .* of one user that is scores\[None\]"),
        ({"scores_UI": [[1.0, 2], [1]]}, "scores_UI is no table of numbers"),
        ({"scores_UI": [["a", "b"], ["c", "d"]]}, "scores_UI is no table of numbers"),
        ({"scores_UI": np.ones((2, 3), complex)}, "complex numbers, which have no order"),
        ({"scores_UI": torch.tensor([[1, 2, 3], [1, torch.nan, 3]]).half()}, "scores of user 1 hold a NaN"),
        ({"scores_UI": [[1.0, np.inf, -np.inf], [1, np.nan, 3]]}, "scores of user 1 hold a NaN"),
        ({"target_U": [0, 1.5]}, "a target: one whole number an item is needed, not float64"),
        ({"seen": [[], [1.5]]}, "seen of user 1: one whole number an item is needed, not float64"),
        ({"seen": np.array([[1], [1]])}, r"it is read as a mask, which is \[2, 3\]"),
        ({"seen": np.array([[1, 2, 0], [0, 0, 0]])}, "it is read as a mask"),
        ({"seen": None}, "seen is a NoneType: histories, a mask or a list"),
        ({"warm_I": [True]}, r"warm_I has shape \(1,\): one value for each of 3 items"),
        ({"popularity_I": [1, 2]}, r"popularity_I has shape \(2,\)"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"scores_UI": [[1.0, 2, 3], [1, 2, 3]], "target_U": [0, 2], "seen": [[], [1]], "k": 1}
    with pytest.raises(fl.FedlabError, match=message):
        fl.evaluate(**{**good, **change})


@pytest.mark.parametrize("k", [0, 3, 1.0, True])
def test_recommended_checks_its_arguments_too(k):
    with pytest.raises(fl.FedlabError, match=f"k={k}: must"):
        fl.recommended([[0.1, 0.2]], [[]], k=k)
    with pytest.raises(fl.FedlabError, match="unknown ties 'random'"):
        fl.recommended([[0.1, 0.2]], [[]], k=1, ties="random")
    with pytest.raises(fl.FedlabError, match="scores of user 0 hold a NaN"):
        fl.recommended([[0.1, float("nan")]], [[]], k=1)


def test_clicks_in_half_precision_and_what_is_no_click():
    rng = np.random.default_rng(0)
    logits, clicks, users = (
        rng.normal(size=5_000).astype(np.float16),
        rng.integers(0, 2, 5_000),
        rng.integers(0, 9, 5_000),
    )
    exact = evaluate_clicks(logits.astype(float), clicks, users)
    assert evaluate_clicks(logits, clicks, users) == pytest.approx(exact, rel=1e-12)
    as_tensors = evaluate_clicks(torch.tensor(logits).bfloat16(), torch.tensor(clicks), torch.tensor(users))
    assert as_tensors == pytest.approx(exact, rel=0.01)
    for bad, message in (
        (([0.5, 1.0], [1, 2], [0, 0]), "the click of showing 1 is 2.0: must be 0 or 1"),
        (([0.5, 1.0], [1, np.nan], [0, 0]), "the click of showing 1 is nan"),
        (([0.5, 1.0], [1], [0, 0]), r"shapes \(2,\), \(1,\) and \(2,\)"),
        (([[0.5, 1.0]], [1], [0]), r"logits have shape \(1, 2\)"),
        ((["a"], [1], [0]), "logits are no numbers"),
    ):
        with pytest.raises(fl.FedlabError, match=message):
            evaluate_clicks(*bad)


def test_runs_that_cannot_be_paired():
    good = pd.DataFrame({"user": [0, 0, 1, 1] * 2, "click": [0, 1] * 4, "logit": range(8), "seed": [0] * 4 + [1] * 4})
    assert paired_auc(good, good, resamples=9)["difference"] == 0
    for bad, message in (
        (good.assign(logit=[0, np.nan] * 4), "the logit of row 1 is NaN"),
        (good.drop(columns="click"), r"missing: \['click'\]"),
        (good.iloc[:0], "missing: the rows"),
        (good.iloc[:7], "do not predict the same showings"),
        (good.assign(click=[0, 1, 0, 1, 1, 0, 1, 0]), "do not predict the same showings"),  # the second seed's
    ):
        with pytest.raises(fl.FedlabError, match=message):
            paired_auc(good, bad, resamples=9)
    with pytest.raises(fl.FedlabError, match=r"resamples=9.5: must be a whole number"):
        paired_auc(good, good, resamples=9.5)


def test_a_paired_test_in_half_precision():
    difference = np.tile([0.1, 0.3, -0.1], 2_000)
    half = difference.astype(np.float16)
    assert paired_test(half)["difference"] == pytest.approx(half.astype(float).mean(), rel=1e-12)
    with pytest.raises(fl.FedlabError, match=r"differences have shape \(1, 2\)"):
        paired_test([[0.1, 0.2]])


def test_a_constant_scorer_on_ku_reaches_the_published_figures_by_index_alone(ku):
    constant = torch.zeros(ku.n_users, ku.n_items)
    by_index = evaluate_split(constant, ku, "test", 50, "index")
    assert round(by_index["hr@50"], 4) == 0.5539
    assert round(by_index["ndcg@50"], 4) == 0.1597
    fair = evaluate_split(constant, ku, "test", 50)
    assert round(fair["hr@50"], 3) == 0.093
    assert round(fair["ndcg@50"], 3) == 0.024


@pytest.mark.parametrize(
    ("baseline", "all_targets", "warm"),
    [
        ("popularity", (0.192, 0.055), (0.338, 0.097)),
        ("itemknn", (0.407, 0.186), (0.668, 0.317)),
        ("ease", (0.494, 0.200), (0.819, 0.341)),
    ],
)
def test_baselines_reach_their_known_figures_on_ku(ku, baseline, all_targets, warm):
    result = evaluate_split(lookup("baseline", baseline)().scores(ku), ku, "test")
    within = 0.00055  # the reference has three digits
    assert (result["hr@50"], result["ndcg@50"]) == pytest.approx(all_targets, abs=within)
    assert (result["hr@50/warm"], result["ndcg@50/warm"]) == pytest.approx(warm, abs=within)


def test_baselines_refuse_what_makes_no_sense():
    with pytest.raises(fl.FedlabError, match="regularisation=0"):
        lookup("baseline", "ease")(regularisation=0)


def test_coverage_and_popularity_rank_agree_with_random_tie_breaks():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, size=(4, 7)).astype(float)
    seen, popularity, k = [[0], [1, 2], [], [6]], np.array([5, 5, 1, 0, 2, 2, 9]), 3
    result = fl.evaluate(scores, [1, 0, 2, 3], seen, k=k, popularity_I=popularity)
    rank = {9: 1, 5: 2.5, 2: 4.5, 1: 6, 0: 7}
    covered, ranks, n = 0.0, 0.0, 4000
    for _ in range(n):
        listed = set()
        for u in range(4):
            order = np.lexsort((rng.random(7), -scores[u]))
            top = [i for i in order if i not in seen[u]][:k]
            listed |= set(top)
            ranks += sum(rank[popularity[i]] for i in top) / (4 * k * n)
        covered += len(listed) / 7 / n
    assert result["coverage@3"] == pytest.approx(covered, abs=0.01)
    assert result["poprank@3"] == pytest.approx(ranks, abs=0.05)
    by_index = fl.recommended(scores, seen, k, ties="index")
    for u in range(4):
        order = [i for i in np.argsort(-scores[u], kind="stable") if i not in seen[u]][:k]
        assert np.flatnonzero(by_index[u]).tolist() == sorted(order)


def test_a_list_longer_than_what_is_left_recommends_what_is_left():
    assert fl.recommended([[1.0, 2.0, 3.0]], [[0, 1]], k=2).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("ties", ["expected", "index"])
def test_blocks_of_users_give_what_all_at_once_do(world, split, ties):
    scores = torch.randint(0, 4, (world.n_users, world.n_items), generator=torch.Generator().manual_seed(0)).float()
    blocks = [(slice(a, b), scores[a:b]) for a, b in ((0, 4), (4, 5), (5, world.n_users))]
    whole = evaluate_split(scores, world, split, 5, ties)
    metrics, users = evaluate_blocks(iter(blocks), world, split, 5, ties)
    assert metrics == pytest.approx(whole, rel=1e-12)
    pd.testing.assert_frame_equal(users, evaluate_users(scores, world.target_U(split), world.train, 5, ties))
