"""Pictures of what is left when a part is taken away."""

import itertools

import pandas as pd
import pytest

from fedlab_mm import plotting


def runs(**columns):
    """A row for each seed of each combination, with a metric that says which it is."""
    rows = [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]
    table = pd.DataFrame(rows)
    return table.assign(**{"ndcg@50": 0.1 + 0.01 * table.index, "hr@50": 0.3})


def marks(axis, style):
    """The heights of the marks of one style: "o" for the first variant, "s" for the second."""
    return [line.get_ydata() for line in axis.lines if line.get_marker() == style]


def test_variants_show_every_seed_its_mean_and_what_was_reported():
    table = runs(backbone=["fcf", "fedavg"], variant=["whole", "without image"], seed=[0, 1, 2])
    reported = pd.DataFrame({"backbone": ["fedavg"], "variant": ["without image"], "ndcg@50": [0.09]})
    figure = plotting.plot_variants(table, reported=reported)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["fcf", "fedavg"]
    assert sum(len(y) for y in marks(axis, ".")) == len(table)
    assert [round(y[0], 3) for y in marks(axis, "o")] == [0.11, 0.17]
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "none" and len(line.get_ydata())]
    assert [tuple(line.get_ydata()) for line in hollow] == [(0.09,)]
    assert [text.get_text() for text in figure.legends[0].texts] == ["whole", "without image", "reported"]


def test_variants_have_a_panel_for_each_metric_and_level_lines():
    table = runs(backbone=["fcf"], variant=["sum", "mix"], seed=[0, 1])
    lines = pd.DataFrame({"ndcg@50": [0.04], "hr@50": [0.16]}, index=["popularity"])
    figure = plotting.plot_variants(table, ["ndcg@50", "hr@50"], lines=lines)
    assert [axis.get_ylabel() for axis in figure.axes] == ["test NDCG@50", "test HR@50"]
    assert [axis.get_ylim()[0] for axis in figure.axes] == [0, 0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["sum", "mix", "popularity"]


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_line_at_zero_where_a_loss_may_be_a_gain(sign):
    table = runs(users=["by cover", "others"], variant=["without image"], seed=[0, 1])
    table["loss"] = sign * table["ndcg@50"]
    figure = plotting.plot_variants(table, "loss", group="users", label="loss of NDCG@50")
    (axis,) = figure.axes
    assert axis.get_ylabel() == "loss of NDCG@50"
    assert any(list(line.get_ydata()) == [0, 0] for line in axis.lines) == (sign < 0)


def test_sampling_draws_the_mean_and_the_range_of_seeds():
    table = runs(backbone=["fcf", "fedavg"], share=[0.1, 0.5, 1.0], seed=[0, 1, 2])
    figure = plotting.plot_sampling(table)
    (axis,) = figure.axes
    assert [list(line.get_xdata()) for line in axis.lines] == [[0.1, 0.5, 1.0]] * 2
    assert axis.lines[0].get_ydata() == pytest.approx([0.11, 0.14, 0.17])
    low, high = axis.collections[0].get_paths()[0].vertices[:, 1].min(), 0.18
    assert (low, axis.collections[0].get_paths()[0].vertices[:, 1].max()) == pytest.approx((0.1, high))


def test_sampling_has_panels_by_a_column_or_by_metric():
    table = runs(backbone=["fcf"], share=[0.1, 1.0], budget=["rounds", "updates"], seed=[0, 1])
    by_budget = plotting.plot_sampling(table, panels="budget")
    assert [axis.get_title() for axis in by_budget.axes] == ["rounds", "updates"]
    by_metric = plotting.plot_sampling(table, ["hr@50", "ndcg@50"])
    assert [axis.get_ylabel() for axis in by_metric.axes] == ["test HR@50", "test NDCG@50"]
