"""One thing changed at a time, and clicks: what is drawn is what the table says."""

import numpy as np
import pandas as pd

from fedlab_mm import plotting


def test_changes_are_differences_with_the_same_seed():
    rows = [("a", v, s, x + 0.1 * s) for v, x in (("base", 0.5), ("up", 0.7), ("lost", np.nan)) for s in range(3)]
    table = pd.DataFrame(rows, columns=["backbone", "variant", "seed", "ndcg@50"])
    axis = plotting.plot_changes(table, "ndcg@50", "base").axes[0]
    drawn = [line.get_xdata() for line in axis.lines]
    assert any(np.allclose(x, 0.2) and len(x) == 3 for x in drawn)
    assert [t.get_text() for t in axis.texts] == ["diverged"]
    assert axis.get_title() == "a, base: 0.600"


def test_clicks_and_what_was_reported_off_the_scale():
    cells = [("fedncf", "none"), ("fedsasrec", "none"), ("fedsasrec", "mrff")]
    rows = [(b, m, s, 0.7 + 0.01 * s, 0.62) for b, m in cells for s in range(2)]
    rows += [("trees", "centralised", 0, 0.72, 0.615)]
    table = pd.DataFrame(rows, columns=["backbone", "method", "seed", "auc", "logloss"])
    there = pd.DataFrame([("fedncf", "none", 0.69, 2.567)], columns=["backbone", "method", "auc", "logloss"])
    figure = plotting.plot_clicks(table, there, lines=("trees",))
    assert [t.get_text() for t in figure.axes[1].texts] == ["2.567 →"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["fedncf", "fedsasrec"]


def test_sweeps_and_shares():
    sweep = pd.DataFrame({"changed": "groups", "value": [1, 4] * 2, "auc": [0.6, 0.7] * 2, "logloss": [0.6, 0.5] * 2})
    assert [t.get_text() for t in plotting.plot_sweeps(sweep).axes[0].get_xticklabels()] == ["1", "4"]
    rows = [("with", r, b, g, 0.25) for r in (1, 2) for b in (0, 1) for g in range(4)]
    shares = plotting.plot_shares(pd.DataFrame(rows, columns=["variant", "round", "block", "group", "share"]))
    assert len(shares.axes) == 2 and shares.axes[0].get_ylabel() == "block 1: users"


def test_showings_and_attention():
    showings = pd.DataFrame({"user": [3, 3, 5], "click": [1, 0, 1], "kind": [0, 1, 1]})
    axis = plotting.plot_showings(showings, colour="kind").axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["user 3", "user 5"]
    assert sum(len(line.get_xdata()) for line in axis.lines) == 3
    weights = {"block 1": np.tril(np.ones((3, 3)) / 3), "block 2": np.eye(3)}
    figure = plotting.plot_attention(weights, ["·", "+", "−"])
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["·", "+", "−"]
