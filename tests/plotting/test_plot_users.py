"""Pictures of users: that each draws what it was given, and says how many they are."""

import numpy as np
import pandas as pd
import pytest

from fedlab_mm import plotting
from fedlab_mm.audit import audit_tables, by_activity, group_means


@pytest.fixture(scope="module")
def tables(toy):
    return audit_tables(toy)


def labels(axis):
    return [tick.get_text() for tick in axis.get_xticklabels()]


def test_activity_counts_every_user_once(toy):
    axis = plotting.plot_activity(toy, by_activity(toy)).axes[0]
    assert sum(patch.get_height() for patch in axis.patches) == toy.n_users
    assert axis.get_legend_handles_labels()[1][0] == "6–12: 76 users"


def test_groups_say_how_many_and_reach_from_low_to_high():
    values = pd.DataFrame({"a": [0, 1, 1, 0, 1, 1.0], "b": [1, 1, 1, 0, 0, 0.0]})
    table = group_means(values, ["x", "x", "x", "x", "y", "y"])
    axis = plotting.plot_groups(table, "HR").axes[0]
    assert labels(axis) == ["x\nn = 4", "y\nn = 2"]
    marks, _, (bars,) = axis.containers[0].lines
    assert marks.get_ydata().tolist() == table.query("scorer == 'a'")["mean"].tolist()
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == table.query("scorer == 'a'")[["low", "high"]].to_numpy().tolist()


def test_preferences_mark_the_few_and_name_the_correlation():
    truth = pd.DataFrame({"image": np.arange(6.0), "text": np.arange(6.0)})
    figure = plotting.plot_preferences(truth, {"same": truth, "turned": -truth}, few_U=truth["image"] < 2)
    assert [axis.get_title() for axis in figure.axes] == [
        "image: ρ = 1.00", "text: ρ = 1.00", "image: ρ = -1.00", "text: ρ = -1.00",
    ]  # fmt: skip
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [4, 2]


def test_numbers_and_power_draw_each_table(tables):
    figure = plotting.plot_numbers({"toy": tables["numbers"], "again": tables["numbers"]})
    assert [axis.get_title() for axis in figure.axes] == ["toy", "again"]
    axis = plotting.plot_power(tables["power"], "ndcg@50", 0.02).axes[0]
    assert axis.get_legend_handles_labels()[1] == ["ease, itemknn", "ease, popularity", "figures only"]
    assert labels(axis) == ["300", "500", "1,000", "2,000", "5,000", "10,000"]


def test_figures_are_sorted_and_lines_named():
    table = pd.DataFrame({"value": [0.2, 0.5], "low": [0.1, 0.4], "high": [0.3, 0.6]}, index=["worse", "better"])
    figure = plotting.plot_figures(table.iloc[::-1], {"constant": 0.55}, "HR")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["worse", "better"]
    assert figure.legends[0].get_texts()[0].get_text() == "constant: 0.550"
