"""What a split gives away, against figures that were counted elsewhere."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.audit import audit_tables, by_activity
from fedlab_mm.data import build
from fedlab_mm.records import ClickLog

FIGURES = Path(__file__).resolve().parents[1] / "figures"


def test_kus_figures(ku):
    """Those of a scorer that knows nothing, by each rule for ties, and of ranking untrained items first."""
    share = fl.audit(ku)["share"]
    assert share["first 50 by chance"] == pytest.approx(0.093, abs=5e-4)
    assert share["first 50 by popularity"] == pytest.approx(0.192, abs=5e-4)
    assert share["first 50 by untrained first, then popularity"] == pytest.approx(0.543, abs=5e-4)
    assert share["first 50 by low item number"] == pytest.approx(0.5539, abs=5e-5)
    counts = fl.audit(ku)["n"]
    assert counts["repeated pairs"] == 5 and counts["targets without training interaction"] == 88


def test_a_world_counted_by_hand():
    log = pd.DataFrame(
        [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 0, 9), (1, 2, 5), (1, 3, 6), (1, 4, 7)],
        columns=["user", "item", "timestamp"],
    )
    data = build("hand", log, pd.DataFrame({"title": list("abcde")}), {})
    table = fl.audit(data, k=1)
    # User 0 holds item 0 and is asked for 2, which user 1 takes later; user 1 holds 2 and is asked for 4, new to all.
    assert table["n"].to_dict() == {
        "repeated pairs": 1,
        "training after the first target": 1,
        "targets in another user's future": 1,
        "targets without training interaction": 1,
        "first 1 by chance": 0.5,
        "first 1 by popularity": 1,
        "first 1 by recency": 1,
        "first 1 by untrained first, then popularity": pytest.approx(0.3, abs=0.05),
        "first 1 by low item number": 0,
    }


def test_one_clock_for_all_leaves_no_future():
    table = fl.audit(fl.load("toy", split="temporal"))["n"]
    assert table["training after the first target"] == table["targets in another user's future"] == 0


def test_bad_arguments(world):
    with pytest.raises(fl.FedlabError, match="unknown split 'train': there are: valid, test"):
        fl.audit(world, k=3, split="train")
    with pytest.raises(fl.FedlabError, match="k=99"):
        fl.audit(world, k=99)
    clicks = ClickLog("clicks", pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})
    with pytest.raises(fl.FedlabError, match="clicks is a ClickLog"):
        fl.audit(clicks)


def test_tables_of_ku_are_those_that_are_stored(ku):
    """And hold what papers print for a trained model: HR@50 0.5539, NDCG@50 0.1597, for a constant."""
    tables = audit_tables(ku)
    assert tables["ties"].loc["constant"].round(4).tolist()[1::2] == [0.5539, 0.1597]
    warm = tables["baselines"].query("targets == 'warm' and metric == 'hr@50'")
    assert warm["users"].unique() == [116] and warm.loc["ease", "mean"] == pytest.approx(0.8193, abs=5e-4)
    assert tables["numbers"]["untrained"].sum() == 16
    for name, table in tables.items():
        stored = pd.read_csv(FIGURES / f"audit-ku-{name}.csv", index_col=0)
        pd.testing.assert_frame_equal(table, stored, check_dtype=False, atol=1e-2, rtol=0)


def test_tables_counted_by_hand():
    """Two items each in training, one for validation: user 0 is asked for item 2, user 1 for item 3, which is cold."""
    pairs = [(0, 0, 1), (0, 1, 2), (0, 4, 3), (0, 2, 4), (1, 2, 1), (1, 1, 2), (1, 0, 3), (1, 3, 4)]
    log = pd.DataFrame(pairs, columns=["user", "item", "timestamp"])
    data = build("hand", log, pd.DataFrame({"title": list("abcde")}), {})
    tables = audit_tables(data, k=2, sizes=(8,))
    # Three items are open to each, {2, 3, 4} and {0, 3, 4}: two places find the target twice in three times. By number,
    # user 0's target is the first of its three, user 1's the second.
    constant = tables["ties"].loc["constant"]
    assert constant["hr@2 expected"] == pytest.approx(2 / 3) and constant["hr@2 index"] == 1
    assert constant["ndcg@2 index"] == pytest.approx((1 + 1 / np.log2(3)) / 2) and constant["tied"] == 1
    assert tables["numbers"].to_dict("list") == {
        "items": [2, 2, 1],
        "untrained": [0, 1, 1],
        "targets": [0, 1, 0],
        "training": [0.75, 0.25, 0],
        "of a user": [0.75, 0.25, 0],
    }
    rows = tables["baselines"].reset_index().set_index(["scorer", "targets", "metric"])
    assert rows.loc[("popularity", "warm", "hr@2"), ["users", "mean"]].tolist() == [1, 1]
    assert (
        tables["activity"]["training items"].unique() == ["2"] and tables["activity"].loc["ease", "cold"].eq(0.5).all()
    )
    assert rows.loc[("popularity", "cold", "hr@2"), "mean"] == 0.5 and np.isnan(
        rows["low"]["popularity", "warm", "hr@2"]
    )


def test_groups_by_activity_part_no_equals(ku):
    """Of KU's 204 users a hundred have three training items, so the first quarter is nearly a half."""
    groups = by_activity(ku)
    assert groups.value_counts(sort=False).to_dict() == {"3": 100, "4": 39, "5": 21, "6–251": 44}
    lengths = pd.Series(ku.train.lengths).groupby(groups.to_numpy(), observed=True)
    assert (lengths.max().shift().fillna(0) < lengths.min()).all()


def test_a_constant_shows_the_trend_that_a_numbering_gives_away(ku):
    """With the lower number first, it serves KU's least active users best; in expectation all alike."""
    table = audit_tables(ku)["activity"].loc["constant"].query("metric == 'hr@50'")
    index, expected = (table[table["ties"] == ties]["mean"].round(2).tolist() for ties in ("index", "expected"))
    assert index == [0.65, 0.59, 0.57, 0.30] and expected == [0.09, 0.09, 0.09, 0.10]


@pytest.mark.slow
def test_power_is_what_a_simulation_finds():
    """At the difference said to be detectable, four tests in five find it."""
    row = (
        audit_tables(fl.load("toy"), sizes=(200,))["power"].query("compared == 'figures only' and users == 200").iloc[0]
    )
    rng = np.random.default_rng(0)
    drawn = rng.normal(row["detectable"], row["sd"], (4000, 200))
    found = np.abs(drawn.mean(axis=1)) > 1.96 * drawn.std(axis=1) / np.sqrt(200)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_tables_refuse_what_cannot_be_audited(world):
    with pytest.raises(fl.FedlabError, match="unknown split"):
        audit_tables(world, k=3, split="train")
    with pytest.raises(fl.FedlabError, match="k=99"):
        audit_tables(world, k=99)
