"""Pictures of groups of users: that every user is drawn where it was sorted to, in its own group's colour."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

import fedlab_mm as fl
from fedlab_mm import plotting
from fedlab_mm.plotting.groups import COLOURS, NOWHERE


def names(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_memberships_draw_each_user_in_its_place():
    groups = pd.DataFrame([[0, -1, 1], [0, 2, 1]], index=pd.Index([1, 2], name="round"))
    figure = plotting.plot_memberships(groups, {"as they come": np.arange(3), "turned": np.array([2, 1, 0])})
    assert [axis.get_title() for axis in figure.axes] == ["as they come", "turned"]
    image = figure.axes[1].images[0]
    assert image.get_array().tolist() == [[1, 1], [-1, 2], [0, 0]]  # user × round, user 2 on top
    colours = [to_rgb(image.to_rgba(group)) for group in (-1, 0, 1, 2)]
    assert colours == [to_rgb(c) for c in (NOWHERE, *COLOURS[:3])]
    assert image.get_extent() == [0.5, 2.5, 3, 0]
    assert names(figure.legends[0]) == ["group 0", "group 1", "group 2", "none yet"]


def test_none_is_not_in_the_legend_where_everybody_is_in_a_group():
    groups = pd.DataFrame([[0, 1]], index=pd.Index([1], name="round"))
    assert names(plotting.plot_memberships(groups, {"": np.arange(2)}).legends[0]) == ["group 0", "group 1"]


def test_four_groups_can_be_told_apart_in_grey():
    grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in COLOURS[:4]]
    assert np.diff(np.sort(grey)).min() > 0.1


def test_clouds_keep_a_name_s_colour_and_leave_the_unnamed_grey():
    some = pd.Categorical(["few", "many", "few"], categories=["many", "few", "nobody"], ordered=True)
    first = pd.DataFrame({"x": [0.0, 1, 2], "y": [3.0, 4, 5], "by activity": some, "by group": ["b", None, "a"]})
    figure = plotting.plot_clouds({"early": first, "late": first.assign(x=first["x"] + 9)})
    assert [axis.get_title() for axis in figure.axes] == [
        "early, by activity", "early, by group", "late, by activity", "late, by group",
    ]  # fmt: skip
    assert names(figure.axes[2].get_legend()) == ["many", "few", "nobody"]
    unnamed, a, b = figure.axes[3].lines
    assert (unnamed.get_xdata().tolist(), a.get_xdata().tolist(), b.get_ydata().tolist()) == ([10], [11], [3])
    assert [line.get_color() for line in (a, b)] == COLOURS[:2]
    assert (figure.axes[2].get_xlabel(), figure.axes[2].get_ylabel()) == ("x", "y")


def test_more_groups_than_colours_is_said():
    groups = pd.DataFrame([range(9)], index=pd.Index([1], name="round"))
    with pytest.raises(fl.FedlabError, match="9 groups: there are colours for 8"):
        plotting.plot_memberships(groups, {"": np.arange(9)})
    cloud = pd.DataFrame({"x": range(9), "y": range(9), "by style": [f"style {n}" for n in range(9)]})
    with pytest.raises(fl.FedlabError, match="9 names in 'by style'"):
        plotting.plot_clouds({"all": cloud})
