"""Signals in two dimensions, and pictures of how far apart they lie."""

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import plotting


@pytest.mark.slow
def test_a_projection_keeps_far_groups_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    signals, threads = {"a": rng.normal(size=(40, 5)), "b": rng.normal(size=(40, 5)) + 30}, torch.get_num_threads()
    flat = plotting.project(signals)
    assert {name: at.shape for name, at in flat.items()} == {"a": (40, 2), "b": (40, 2)}
    between = np.linalg.norm(flat["a"].mean(axis=0) - flat["b"].mean(axis=0))
    assert between > 3 * max(at.std() for at in (flat["a"] - flat["a"].mean(0), flat["b"] - flat["b"].mean(0)))
    again = plotting.project(signals)
    assert all((flat[name] == again[name]).all() for name in flat)
    assert not np.allclose(plotting.project(signals, seed=1)["a"], flat["a"])
    assert torch.get_num_threads() == threads, "numba must not set torch's"


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({}, "got none"),
        ({"a": np.zeros((20, 3)), "b": np.zeros((20, 2))}, "of one shape"),
        ({"a": np.zeros(20)}, "of one shape"),
        ({"a": np.zeros((4, 3)), "b": np.zeros((4, 3))}, "8 vectors are too few"),
        ({"a": np.full((20, 3), np.nan)}, "not finite"),
    ],
)
def test_what_cannot_be_projected(signals, message):
    with pytest.raises(fl.FedlabError, match=message):
        plotting.project(signals)


def test_panels_share_one_legend():
    at = np.arange(12.0).reshape(6, 2)
    figure = plotting.plot_gap({"before": {"id": at, "image": at}, "with a table": {"id": at, "personal": at}})
    assert [axis.get_title() for axis in figure.axes] == ["before", "with a table"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["id", "image", "personal"]
    first, second = (axis.get_lines()[0] for axis in figure.axes)
    assert first.get_color() == second.get_color() and len(first.get_xdata()) == 6


def test_rounds_and_users():
    table = pd.DataFrame({"distance": [1.0, 2.0], "gap": [0.5, 0.6]}, index=["id – image", "id – text"])
    rounds = plotting.plot_gap_rounds({0: table, 1: 2 * table}, columns=("distance", "gap"))
    assert [axis.get_title() for axis in rounds.axes] == ["distance", "gap"]
    assert list(rounds.axes[1].get_lines()[1].get_ydata()) == [0.6, 1.2]
    users = pd.DataFrame({"distance": [0.1, 0.2, 0.2], "gap": [0.4, 0.5, 0.6]})
    figure = plotting.plot_gap_users(users, users.iloc[:2].set_axis(["without", "random"], axis=0))
    assert [axis.get_xlabel() for axis in figure.axes] == ["distance", "gap"]
    assert [len(axis.get_lines()) for axis in figure.axes] == [2, 2]
    assert sum(patch.get_height() for patch in figure.axes[1].patches) == 3
