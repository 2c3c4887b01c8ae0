"""What every widget here owes to whoever has no mouse, or does not see it."""

import re

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.plotting.base import closed
from fedlab_mm.widgets import explore_user, noise_slider, player
from fedlab_mm.widgets.base import described, redrawn


def draw(number=0, frame=None):
    figure, axis = plt.subplots()
    axis.set(xlabel="round", ylabel='"loss" <of all>', title=f"at {number}")
    return closed(figure)


@pytest.fixture(scope="module")
def widgets(toy):
    sweep = pd.DataFrame({"noise": [0.0, 1.0], "rows": "all", "ndcg": 0.1, "auc": 0.5, "epsilon": float("inf")})
    run = fl.train(fl.Recipe(rounds=1), toy, progress=False)
    return [noise_slider(sweep).box, player({1: "a", 2: "b"}, draw).box, explore_user(run).box]


def parts(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def test_every_control_has_a_name_and_says_what_it_does(widgets):
    for widget in widgets:
        controls = [
            part for part in parts(widget) if "description" in part.trait_names() and part.layout.display != "none"
        ]
        controls = [part for part in controls if not isinstance(part, ipywidgets.HTML)]
        assert controls and all(part.description and part.tooltip for part in controls)


def test_every_picture_has_words(widgets):
    for widget in widgets:
        pictures = [img for part in parts(widget) for img in re.findall("<img[^>]*>", str(getattr(part, "value", "")))]
        assert pictures and all(re.search('alt="[^"]+"', img) for img in pictures)


def test_a_picture_in_words_follows_the_control():
    slider = ipywidgets.SelectionSlider(options=[("none", 0), ("some", 1)], description="noise")
    place = redrawn(lambda: draw(slider.value), [slider])
    assert 'alt="at 0: &quot;loss&quot; &lt;of all&gt; against round; noise none"' in place.value
    slider.value = 1
    assert 'alt="at 1: &quot;loss&quot; &lt;of all&gt; against round; noise some"' in place.value
    assert described(plt.Figure()) == ""


def test_colours_of_the_explorer_stand_out_on_light_and_on_dark(widgets):
    page = next(part.value for part in parts(widgets[2]) if "its router" in str(getattr(part, "value", "")))
    colours = set(re.findall("#[0-9a-f]{6}", re.sub('src="[^"]*"', "", page)))
    assert colours
    for colour in colours:  # bars and lines, not text: WCAG 1.4.11 asks for 3
        assert contrast(colour, "#ffffff") >= 3 and contrast(colour, "#111111") >= 3


def contrast(a, b):
    """WCAG's ratio of relative luminances."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
