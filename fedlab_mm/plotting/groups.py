"""Groups of users: who is in which, round by round, and how the vectors lie that they were made of."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedlab_mm.errors import FedlabError
from fedlab_mm.plotting.base import MARKERS, PALETTE, bare, closed

COLOURS = [PALETTE[n] for n in (0, 8, 3, 9, 2, 6, 4, 1)]  # the first four can be told apart in grey
NOWHERE = (0.93, 0.93, 0.93)


def plot_memberships(groups: pd.DataFrame, orders: Mapping[str, np.ndarray]) -> Figure:
    """Every user's group as a line of colours along the rounds; a panel for each way to sort the users.

    Args:
        groups: round × user, the group's number; −1 where a user is in none yet.
        orders: title -> users, from the top down.

    Raises:
        FedlabError: more groups than there are colours.
    """
    group_TU, rounds = groups.to_numpy(), groups.index.to_numpy()
    n_groups = _coloured("groups", int(group_TU.max()) + 1)
    width = 1.4 + 3.7 * len(orders)
    figure, axes = plt.subplots(1, len(orders), figsize=(width, 3.6), layout="constrained", squeeze=False)
    colours = ListedColormap([NOWHERE, *COLOURS[:n_groups]])
    for axis, (title, order) in zip(axes[0], orders.items(), strict=True):
        axis.imshow(
            group_TU[:, order].T, cmap=colours, vmin=-1.5, vmax=n_groups - 0.5, aspect="auto", interpolation="nearest",
            extent=(rounds[0] - 0.5, rounds[-1] + 0.5, len(order), 0),
        )  # fmt: skip
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(str(groups.index.name))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel(f"{group_TU.shape[1]} users")
    boxes = [Patch(color=COLOURS[group], label=f"group {group}") for group in range(n_groups)]
    if (group_TU < 0).any():
        boxes.append(Patch(color=NOWHERE, label="none yet"))
    figure.legend(handles=boxes, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_clouds(clouds: Mapping[str, pd.DataFrame]) -> Figure:
    """The same points under several names: a row for each cloud, a panel for each way to name its points.

    Args:
        clouds: title -> two columns of coordinates, whose names label the axes, then for each panel a column with
            the points' names, an ordered category or text; points without a name are small and grey.

    Raises:
        FedlabError: more names in a column than there are colours.
    """
    panels = list(next(iter(clouds.values())).columns[2:])
    figure, axes = plt.subplots(
        len(clouds),
        len(panels),
        figsize=(0.8 + 3.1 * len(panels), 0.7 + 2.3 * len(clouds)),
        layout="constrained",
        squeeze=False,
        sharex="row",
        sharey="row",
    )
    for column, panel in zip(axes.T, panels, strict=True):
        named = pd.concat([table[panel] for table in clouds.values()])
        names = list(named.cat.categories) if hasattr(named, "cat") else sorted(named.dropna().unique())
        _coloured(f"names in '{panel}'", len(names))
        for axis, (title, table) in zip(column, clouds.items(), strict=True):
            x, y, rest = table.iloc[:, 0], table.iloc[:, 1], table[panel].isna()
            axis.plot(x[rest], y[rest], ".", color="0.75", markersize=3)
            for n, name in enumerate(names):
                here, style = table[panel] == name, {"color": COLOURS[n], "marker": MARKERS[n % len(MARKERS)]}
                axis.plot(
                    x[here], y[here], linestyle="", markersize=4, markeredgecolor="0.3", markeredgewidth=0.3,
                    label=str(name), **style,
                )  # fmt: skip
            axis.set_title(f"{title}, {panel}", fontsize=9)
            bare(axis)
        column[-1].set_xlabel(str(table.columns[0]))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25), "ncols": 2, "handletextpad": 0.1}
        column[-1].legend(frameon=False, fontsize=8, **below)
    for axis, table in zip(axes[:, 0], clouds.values(), strict=True):
        axis.set_ylabel(str(table.columns[1]))
    return closed(figure)


def _coloured(what: str, wanted: int) -> int:
    if wanted > len(COLOURS):
        raise FedlabError(f"{wanted} {what}: there are colours for {len(COLOURS)}")
    return wanted
