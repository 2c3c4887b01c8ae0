"""Pictures are looked at before they are committed; here only that each draws what it was given."""

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm import plotting


def test_traffic_stacks_the_parts_of_each_method():
    rows = [("a", "sent", "views", 3.0), ("a", "sent", "layers", 1.0), ("b", "sent", "views", 2.0)]
    rows += [("a", "stays", "router", 0.5)]
    figure = plotting.plot_traffic(pd.DataFrame(rows, columns=["method", "way", "what", "size"]))
    sent, stays = figure.axes
    assert [(bar.get_x(), bar.get_width()) for bar in sent.patches] == [(0, 3), (3, 1), (0, 2)]
    assert [text.get_text() for text in sent.texts] == ["4.0", "2.0"]
    assert [text.get_text() for text in stays.texts] == ["0.5", "0"]


def test_paths_begin_at_the_start_and_keep_distances_in_their_plane():
    moves = np.zeros((2, 3, 5))
    moves[0, :, 1], moves[1, :, 3] = [1, 2, 3], [1, 4, 9]  # two clients, each along an axis of its own
    axis = plotting.plot_paths({"own": moves[:1], "drawn": moves[1:]}, steps=(1, 5, 20)).axes[0]
    whole = [np.array(line.get_data()).T for line in axis.lines if len(line.get_data()[0]) == 4]
    assert all(np.allclose(path[0], 0) for path in whole)
    assert sorted(round(float(np.hypot(*path[-1])), 6) for path in whole[:2]) == [3, 9]
    assert np.hypot(*whole[2][-1]) == pytest.approx(np.hypot(1.5, 4.5))  # the mean of both


def test_series_give_a_column_one_look_and_leave_gaps_out():
    left = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, np.nan]}, index=pd.Index([1, 2], name="round"))
    right = pd.DataFrame({"b": [0.1, 10.0]}, index=pd.Index([4, 8], name="steps"))
    figure = plotting.plot_series({"loss": left, "distance": right}, log=["distance"], levels={"loss": {"floor": 0.0}})
    one, two = figure.axes
    assert one.get_xlabel() == "round" and two.get_xlabel() == "steps"
    assert len(one.lines[1].get_xdata()) == 1
    assert one.lines[1].get_color() == two.lines[0].get_color()
    assert one.get_yscale() == "linear" and two.get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "floor"]


def test_ranks_have_the_top_up():
    ranks = pd.DataFrame({0: [400.0, 20.0], 1: [300.0, 2.0]}, index=pd.Index([1, 9], name="round"))
    axis = plotting.plot_ranks({"none": ranks}, k=50, user=1).axes[0]
    assert axis.yaxis_inverted()
    assert [line.get_label() for line in axis.lines] == ["median user", "user 1", "cut-off 50"]
    assert axis.lines[0].get_ydata().tolist() == [350, 11]


def test_frames_tell_what_moved_and_mark_what_is_asked(toy):
    frames = {1: pd.DataFrame({"item": [4, 5, 6]}), 2: pd.DataFrame({"item": [5, 4, 9]})}
    figure = plotting.plot_frames(toy, frames, marks={"held out": {9}})
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["", "", "", "▲ 1", "▼ 1", "new"]
    assert [len(axis.patches) for axis in figure.axes] == [0, 0, 0, 0, 0, 1]
    alone = plotting.plot_frames(toy, frames, rounds=[2])  # a player shows one round at a time, against the one before
    assert [axis.get_title() for axis in alone.axes] == titles[3:]


def test_frames_need_covers(world):
    with pytest.raises(fl.FedlabError, match="no covers"):
        plotting.plot_frames(world, {1: pd.DataFrame({"item": [0]})})
