"""One style for every picture: colours that colour-blind readers can tell apart, marks and dashes that survive grey."""

from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":", "-.")
LEVELS: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))  # of lines at what a rival reaches


def closed(figure: Figure) -> Figure:
    """Take the figure from pyplot, so that a notebook shows it once, as the value of its cell."""
    plt.close(figure)
    return figure


def bare(axis: Axes) -> None:
    """No frame where nothing is measured."""
    axis.spines[["top", "right"]].set_visible(False)
