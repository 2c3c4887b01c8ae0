"""A training, round by round."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import ipywidgets
from matplotlib.figure import Figure

from fedlab_mm.errors import FedlabError
from fedlab_mm.widgets.base import Live, redrawn

Frame = TypeVar("Frame")


def player(frames: Mapping[int, Frame], draw: Callable[[int, Frame], Figure], milliseconds: int = 700) -> Live:
    """Play what was noted down round by round; a slider stops at any of the rounds.

    Args:
        frames: round -> whatever was noted there, as one fills it while iterating over `rounds`.
        draw: makes a picture of a round and its frame; milliseconds: from one round to the next.

    Raises:
        FedlabError: no frames.
    """
    if not frames:
        raise FedlabError("frames is empty: note down at least one round")
    rounds = sorted(frames)
    slider = ipywidgets.SelectionSlider(
        options=rounds, description="round", tooltip="the round that is shown", continuous_update=False
    )
    clock = ipywidgets.Play(min=0, max=len(rounds) - 1, interval=milliseconds)
    clock.layout.display = "none"  # its buttons are icons without a name
    button = ipywidgets.ToggleButton(description="play", icon="play", tooltip="play the rounds, or stop")
    ipywidgets.jslink((button, "value"), (clock, "playing"))
    ipywidgets.link((clock, "value"), (slider, "index"))

    def name(_: object) -> None:
        button.description = button.icon = "pause" if button.value else "play"

    button.observe(name, "value")
    place = redrawn(lambda: draw(slider.value, frames[slider.value]), (slider,))
    box = ipywidgets.VBox([ipywidgets.HBox([button, slider, clock]), place])
    return Live(box, draw(rounds[-1], frames[rounds[-1]]))
