"""The gap between signals: by hand, and what may not change it."""

import numpy as np
import pytest

import fedlab_mm as fl

CROSS = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]] * 3)  # twelve items around the origin, each at distance one


def test_by_hand():
    table = fl.modality_gap({"a": CROSS, "b": CROSS + np.array([3.0, 4.0])}, permutations=199)
    row = table.loc["a – b"]
    assert row["distance"] == pytest.approx(5) and row["spread"] == pytest.approx(1) and row["gap"] == pytest.approx(5)
    assert row["separable"] == 1
    assert row["p"] == pytest.approx(1 / 200)  # no assignment of coins but all alike reaches the distance


def test_the_same_signal_twice_has_no_gap():
    row = fl.modality_gap({"a": CROSS, "b": CROSS}, permutations=19).loc["a – b"]
    assert row["distance"] == 0 and row["gap"] == 0 and row["p"] == 1
    assert list(fl.modality_gap({"a": CROSS * 0, "b": CROSS * 0}, permutations=9)["gap"]) == [0]


def test_a_row_for_each_pair():
    signals = {"id": CROSS, "image": CROSS + 1, "text": CROSS - 1}
    table = fl.modality_gap(signals, permutations=9)
    assert list(table.index) == ["id – image", "id – text", "image – text"]
    np.testing.assert_allclose(table["distance"], [2**0.5, 2**0.5, 8**0.5])


def test_scale_turning_and_moving_the_space_leave_the_gap():
    rng = np.random.default_rng(0)
    signals = {"a": rng.normal(size=(50, 3)), "b": rng.normal(size=(50, 3)) + np.array([0.5, 0, 0])}
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    before = fl.modality_gap(signals, permutations=99)
    after = fl.modality_gap({name: 7 * z @ turn + [1.0, 2.0, 3.0] for name, z in signals.items()}, permutations=99)
    np.testing.assert_allclose(after[["gap", "p"]], before[["gap", "p"]])
    np.testing.assert_allclose(after[["distance", "spread"]], 7 * before[["distance", "spread"]])


def test_p_is_uniform_where_the_two_vectors_of_an_item_are_exchangeable():
    rng = np.random.default_rng(0)
    p = [
        fl.modality_gap({"a": rng.normal(size=(10, 2)), "b": rng.normal(size=(10, 2))}, permutations=99, seed=s)["p"]
        for s in range(30)
    ]
    assert 0.35 < np.mean(p) < 0.65 and np.mean(np.array(p) <= 0.1) < 0.25


def test_an_untrained_gap_is_the_difference_of_biases(toy):
    """Features are standardised, so the centre of a modality's signals is its map's bias."""
    model = fl.untrained(fl.Recipe(method="fedmr"), toy)
    signals = {name: z.numpy() for name, z in model.signals().items()}
    state = model.state()
    biases = [state[f"shared.fusion.bank.maps.{name}.bias"].numpy() for name in ("image", "text")]
    table = fl.modality_gap(signals, permutations=9)
    assert table.loc["image – text", "distance"] == pytest.approx(np.linalg.norm(biases[0] - biases[1]), abs=1e-4)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({}, "two signals at least; got none"),
        ({"a": CROSS}, "two signals at least; got a"),
        ({"a": CROSS, "b": CROSS[:11]}, r"of one shape.*'b': \(11, 2\)"),
        ({"a": CROSS[:, 0], "b": CROSS[:, 0]}, "of one shape"),
        ({"a": CROSS[:9], "b": CROSS[:9]}, "ten items or more"),
        ({"a": CROSS, "b": CROSS * np.nan}, "signal 'b' has values that are not finite"),
    ],
)
def test_what_has_no_gap(signals, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.modality_gap(signals)


def test_no_permutation():
    with pytest.raises(fl.FedlabError, match="permutations=0: must be at least 1"):
        fl.modality_gap({"a": CROSS, "b": CROSS}, permutations=0)
