"""The user explorer and the round player, moved by hand."""

import dataclasses

import numpy as np
import pytest

import fedlab_mm as fl
from fedlab_mm import plotting
from fedlab_mm.cli import VIEW, without_views
from fedlab_mm.widgets import explore_user, player


@pytest.fixture(scope="module")
def runs():
    data = fl.load("toy")
    recipe = fl.Recipe(rounds=2)
    full = fl.train(recipe, data, progress=False)
    return {"all signals": full, "without covers": fl.train(recipe.but(without=("image",)), data, progress=False)}


def test_a_user_is_told_in_full(runs):
    run = runs["all signals"]
    live = explore_user(runs, user=3)
    (choice, _), told = live.box.children[0].children, live.box.children[1]
    for item in run.recommend(3, 8)["title"]:
        assert item in told.value
    left_out = set(runs["without covers"].recommend(3, 8)["item"])
    new = len(left_out - set(run.recommend(3, 8)["item"]))
    assert f"without covers: {new} of 8 are others" in told.value
    assert "its router" in told.value and "held out" in told.value and told.value.count("<img") == 8 * 3 + 1
    before = told.value
    choice.value = 4
    assert told.value != before


def test_another_user_is_drawn(runs):
    live = explore_user(runs["all signals"])
    choice, button = live.box.children[0].children
    button.click()
    assert choice.value != 0


def test_titles_with_markup_stay_text_and_covers_may_be_missing(runs):
    run = runs["all signals"]
    items = run.data.items.assign(title="<script>alert(1)</script>")
    bare = dataclasses.replace(run, data=dataclasses.replace(run.data, items=items, covers=None))
    told = explore_user(bare).box.children[1].value
    assert "<script>" not in told and "&lt;script&gt;" in told and "<img" not in told


def test_what_cannot_be_explored(runs):
    run = runs["all signals"]
    with pytest.raises(fl.FedlabError, match="user=300: toy has users 0 to 299"):
        explore_user(run, user=300)
    with pytest.raises(fl.FedlabError, match="runs is empty"):
        explore_user({})
    other = fl.train(run.recipe.but(rounds=1), fl.load("toy", seed=1), progress=False)
    with pytest.raises(fl.FedlabError, match="different data"):
        explore_user({"a": run, "b": other})


def test_the_player_draws_the_round_that_is_chosen(runs):
    drawn = []

    def draw(number, frame):
        drawn.append((number, frame))
        return plotting.plot_line(np.array([-1.0, 1.0]), np.array([False, True]))

    live = player({1: "a", 5: "b", 20: "c"}, draw)
    (button, slider, clock), place = live.box.children[0].children, live.box.children[1]
    assert drawn == [(1, "a"), (20, "c")]  # the widget begins at the first, its picture shows the last
    assert "round 1" in place.value
    clock.value = 1
    assert slider.value == 5 and drawn[-1] == (5, "b") and "round 5" in place.value
    slider.value = 20
    assert clock.value == 2 and drawn[-1] == (20, "c")
    button.value = True
    assert button.description == "pause"
    with pytest.raises(fl.FedlabError, match="frames is empty"):
        player({}, draw)


def test_the_picture_stands_for_the_widget_where_there_is_no_kernel(runs):
    live = explore_user(runs["all signals"])
    bundle = live._repr_mimebundle_()
    assert VIEW in bundle and bundle["image/png"].startswith("iVBOR")
    outputs = [{"data": dict(bundle)}, {"data": {VIEW: {}}}, {"text": "a stream"}]
    without_views(outputs)
    assert VIEW not in outputs[0]["data"] and VIEW in outputs[1]["data"]
