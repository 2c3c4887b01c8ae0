"""What views keep of an item's signals, how fast one learns through them, and what a router has found."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab_mm.plotting.base import DASHES, MARKERS, PALETTE, bare, closed


def plot_bands(
    panels: Mapping[str, Mapping[str, pd.DataFrame]],
    label: str,
    lines: Mapping[str, float] | None = None,
    chance: tuple[float, float] | None = None,
) -> Figure:
    """Curves with seeds: the mean, and a band over their range. A panel for each title.

    Args:
        panels: title -> name of a curve -> table with a column for each seed; its index, with its name, is the x-axis.
        label: of the y-axis; lines: label -> value, drawn as level lines; chance: a grey band from low to high.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.9 + 3.3 * len(panels), 3), layout="constrained", sharey=True, squeeze=False
    )
    handles: dict[str, Artist] = {}
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        if chance is not None:
            handles["chance"] = axis.axhspan(*chance, color="0.88", linewidth=0)
        for dash, (name, value) in zip(DASHES[2:] + DASHES[1:2], (lines or {}).items(), strict=False):
            handles[name] = axis.axhline(value, color="0.45", linestyle=dash, linewidth=1)
        for name, table in curves.items():
            n = names.index(name)
            colour, x = PALETTE[n % len(PALETTE)], table.index
            axis.fill_between(x, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.2, linewidth=0)
            handles[name] = axis.plot(
                x,
                table.mean(axis=1),
                DASHES[n % len(DASHES)],
                color=colour,
                marker=MARKERS[n % len(MARKERS)],
                markersize=4,
                markevery=max(1, len(x) // 8),
            )[0]
            axis.set_xlabel(str(x.name))
        axis.set_title(title, fontsize=9)
        bare(axis)
    axes[0, 0].set_ylabel(label)
    shown = [*names, *(name for name in handles if name not in names)]
    figure.legend([handles[n] for n in shown], shown, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_before_after(
    before: pd.DataFrame, after: pd.DataFrame, label: str, chance: Mapping[str, float] | None = None
) -> Figure:
    """How figures move: a panel for each column, a line for each row from its mean before, hollow, to its mean after,
    filled. A row's seeds are small dots beside the latter.

    Args:
        before, after: the same columns; the index names the rows, once for each seed. label: of the x-axis.
        chance: column -> a value that says nothing, drawn as an upright line.
    """
    rows, columns = list(dict.fromkeys(before.index)), list(before.columns)
    reach = 1.06 * max(before.max().max(), after.max().max())
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(1.6 + 2.4 * len(columns), 0.9 + 0.29 * len(rows)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, column in zip(axes[0], columns, strict=True):
        if chance is not None:
            axis.axvline(chance[column], color="0.45", linestyle=":", linewidth=1)
        for y, row in enumerate(rows):
            start, end = before.loc[[row], column], after.loc[[row], column]
            colour = PALETTE[y % len(PALETTE)]
            axis.plot([start.mean(), end.mean()], [y, y], color=colour, linewidth=1.5)
            axis.plot(start.mean(), y, "o", markersize=6, markerfacecolor="white", color=colour)
            axis.plot(end.mean(), y, "o", markersize=6, color=colour)
            if len(end) > 1:
                axis.plot(end, [y + 0.3] * len(end), ".", markersize=4, color=colour)
        axis.set(ylim=(len(rows) - 0.4, -0.5), xlim=(0, reach))
        axis.set_title(str(column), fontsize=9)
        bare(axis)
    axes[0, 0].set_yticks(range(len(rows)), rows, fontsize=8)
    figure.supxlabel(label, fontsize=9)
    hollow = Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="before")
    handles = [hollow, Line2D([], [], color="0.3", marker="o", linestyle="", label="after")]
    if chance is not None:
        handles.append(Line2D([], [], color="0.45", linestyle=":", label="chance"))
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_reliance(reliance: pd.DataFrame, weights: pd.DataFrame) -> Figure:
    """Every user's router weight on a view against what it was planted to rely on: a panel for each column of both, in
    order, with their rank correlation. Users who rely on one signal alone are squares.

    Args:
        reliance, weights: user × signal and user × view; the views in the order of the signals.
    """
    alone = (reliance.max(axis=1) > 1 - 1e-9).to_numpy()
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, len(reliance))
    figure, axes = plt.subplots(
        1, reliance.shape[1], figsize=(2.7 * reliance.shape[1], 2.9), layout="constrained", sharey=True, squeeze=False
    )
    for axis, signal, view in zip(axes[0], reliance, weights, strict=True):
        x, y = reliance[signal].to_numpy(), weights[view].to_numpy()
        for chosen, colour, marker, name in (
            (~alone, PALETTE[0], "o", "a mixture"),
            (alone, PALETTE[1], "s", "one alone"),
        ):
            axis.scatter((x + jitter)[chosen], y[chosen], s=13, color=colour, marker=marker, alpha=0.55, label=name)
        rho = np.corrcoef(reliance[signal].rank(), weights[view].rank())[0, 1]
        axis.set_title(f"{view}: Spearman {rho:.2f}", fontsize=9)
        axis.set_xlabel(f"planted reliance on {signal}", fontsize=9)
        axis.set(xlim=(-0.06, 1.06), ylim=(-0.03, 1.03))
        bare(axis)
    axes[0, 0].set_ylabel("router weight")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=2, title="user relies on"
    )
    return closed(figure)
