"""What a split gives away, against figures that were counted elsewhere."""

import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.records import ClickLog


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
