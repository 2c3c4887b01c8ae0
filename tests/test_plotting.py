"""Pictures are looked at before they are committed; here only that each draws what it was given."""

import numpy as np
import pandas as pd

import fedlab_mm as fl
from fedlab_mm import plotting


def test_router_groups_show_every_user_once():
    weights = pd.DataFrame(np.full((6, 2), 0.5), columns=["solo:id", "solo:image"])
    figure = plotting.plot_router_groups(weights, pd.Series(list("aabaab")))
    assert [axis.get_xlabel() for axis in figure.axes] == ["a\n4 users", "b\n2 users"]
    assert [len(axis.patches) for axis in figure.axes] == [8, 4]


def test_learning_curves_and_router_rounds(world, recipe):
    run = fl.train(recipe, world, progress=False)
    curves = plotting.plot_learning_curves({"a": run}, baselines={"popularity": 0.1})
    assert len(curves.axes) == 2 and len(curves.axes[1].get_legend_handles_labels()[1]) == 2
    rounds = plotting.plot_router_rounds({1: run.router_weights(), 2: run.router_weights()}, user=3)
    assert rounds.axes[0].get_legend_handles_labels()[1] == ["sum", "mlp", "gate", "user 3"]
