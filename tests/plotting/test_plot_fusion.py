"""Pictures are looked at before they are committed; here only that each draws what it was given."""

import numpy as np
import pandas as pd

from fedlab_mm import plotting


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_bands_draw_the_mean_over_seeds_and_name_each_curve_once():
    curve = pd.DataFrame({0: [1.0, 2.0], 1: [3.0, 4.0]}, index=pd.Index([5, 10], name="round"))
    panels = {"left": {"a": curve, "b": curve + 1}, "right": {"b": curve}}
    figure = plotting.plot_bands(panels, "hits", lines={"floor": 0.5}, chance=(-0.1, 0.1))
    left, right = figure.axes
    assert (left.get_title(), right.get_title(), left.get_xlabel(), left.get_ylabel()) == (
        "left",
        "right",
        "round",
        "hits",
    )
    assert [line.get_ydata()[0] for line in left.lines] == [0.5, 2.0, 3.0]  # the level line, then the means of a and b
    assert left.lines[2].get_color() == right.lines[1].get_color()  # b is b in both panels
    assert texts(figure.legends[0]) == ["a", "b", "chance", "floor"]


def test_before_after_has_a_panel_for_each_column_and_every_seed():
    before = pd.DataFrame({"style": [0.1, 0.3, 0.2, 0.2], "topic": 0.5}, index=["sum", "sum", "mlp", "mlp"])
    figure = plotting.plot_before_after(before, before + 0.25, "share", chance={"style": 0.125, "topic": 0.125})
    assert [axis.get_title() for axis in figure.axes] == ["style", "topic"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["sum", "mlp"]
    chance, move, start, end, seeds = figure.axes[0].lines[:5]
    assert np.allclose(move.get_xdata(), [0.2, 0.45])
    assert (start.get_xdata()[0], end.get_xdata()[0], len(seeds.get_xdata())) == (0.2, 0.45, 2)
    assert chance.get_xdata()[0] == 0.125
    assert figure.axes[0].get_xlim()[1] > 0.75


def test_reliance_shows_every_user_in_each_panel_with_the_rank_correlation():
    reliance = pd.DataFrame({"cover": [1.0, 0.0, 0.2, 0.6], "title": [0.0, 1.0, 0.8, 0.4]})
    weights = pd.DataFrame({"solo:image": [0.9, 0.1, 0.2, 0.3], "solo:text": [0.9, 0.1, 0.2, 0.3]})
    figure = plotting.plot_reliance(reliance, weights)
    assert [axis.get_title() for axis in figure.axes] == [
        "solo:image: Spearman 1.00",
        "solo:text: Spearman -1.00",
    ]
    mixture, alone = (part.get_offsets() for part in figure.axes[0].collections)
    assert (len(mixture), len(alone)) == (2, 2)
