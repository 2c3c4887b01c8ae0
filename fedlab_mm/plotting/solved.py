"""Clients that step beside clients that solve, each beside its control; and what rounds and bytes buy."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab_mm.plotting.base import DASHES, LEVELS, MARKERS, PALETTE, bare, closed

SPELLED = {"popularity": "popularity", "itemknn": "item-KNN", "ease": "EASE", "ials": "iALS"}
CLIENTS = {"steps": 0, "solved": 2}


def plot_solved(table: pd.DataFrame, printed: Mapping[str, float] | None = None) -> Figure:
    """Clients and methods as rows, all targets to the left, warm ones to the right; true features filled, shuffled
    ones hollow, rivals as lines.

    Args:
        table: columns row ("solved + prior", or a rival's name), control ("" or "shuffled"), seed, ndcg@50,
            ndcg@50/warm.
        printed: row -> what a paper prints of all targets, drawn as a cross.
    """
    lines = table[table["row"].isin(SPELLED)].set_index("row")
    cells = table[~table["row"].isin(SPELLED)].assign(control=table["control"].astype(object).fillna(""))
    rows = list(dict.fromkeys(cells["row"]))
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.42 * len(rows) + 1.5), layout="constrained", sharey=True)
    for axis, metric in zip(axes, ("ndcg@50", "ndcg@50/warm"), strict=True):
        for (row, control), part in cells.groupby(["row", "control"], sort=False):
            colour = PALETTE[CLIENTS.get(str(row).partition(" + ")[0], 3)]
            y, fill = rows.index(str(row)) + (0.18 if control else -0.18), "white" if control else colour
            if not control and str(row).endswith("+ none"):
                y = rows.index(str(row))
            low, high = part[metric].min(), part[metric].max()
            axis.plot([low, high], [y, y], color=colour, linewidth=1.2, alpha=0.7)
            axis.plot(part[metric].mean(), y, "D" if control else "o", color=colour, markerfacecolor=fill, markersize=6)
        for row, value in (printed or {}).items() if metric == "ndcg@50" else ():
            if row in rows:
                axis.plot(value, rows.index(row), "X", color="0.25", markersize=6)
        for dash, level in zip(LEVELS, lines[metric], strict=False):
            axis.axvline(level, color="0.45", linestyle=dash, linewidth=1)
        axis.set_xlabel("test NDCG@50, " + ("all targets" if metric == "ndcg@50" else "warm targets"))
        axis.margins(x=0.04)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", color="0.92")
        bare(axis)
    axes[0].set_yticks(range(len(rows)), rows, fontsize=9)
    marks = [("o", "0.3", "true features"), ("D", "white", "features shuffled")]
    handles = [
        Line2D([], [], color="0.3", marker=m, markerfacecolor=fill, linestyle="", label=label)
        for m, fill, label in marks
    ]
    if printed:
        handles.append(Line2D([], [], color="0.25", marker="X", linestyle="", label="printed"))
    for dash, name in zip(LEVELS, lines.index, strict=False):
        handles.append(Line2D([], [], color="0.45", linestyle=dash, linewidth=1, label=SPELLED[str(name)]))
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_rounds(table: pd.DataFrame, share: float = 0.95) -> Figure:
    """NDCG by rounds, and by what one client has uploaded, a line for each client.

    Args:
        table: columns client, seed, round, ndcg, kilobytes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.4), layout="constrained", sharey=True)
    means = table.groupby(["client", "round"], sort=False)[["ndcg", "kilobytes"]].mean().reset_index()
    for n, (name, part) in enumerate(means.groupby("client", sort=False)):
        style = {"color": PALETTE[n], "linestyle": DASHES[n % len(DASHES)], "marker": MARKERS[n], "markersize": 4}
        for axis, along in zip(axes, ("round", "kilobytes"), strict=True):
            every = np.unique(np.geomspace(1, len(part), 9).astype(int) - 1).tolist()
            axis.plot(part[along], part["ndcg"], label=str(name), markevery=every, **style)
    for axis, label in zip(axes, ("rounds", "kilobytes that one client has uploaded"), strict=True):
        axis.axhline(share * means["ndcg"].max(), color="0.45", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        bare(axis)
    axes[0].set_ylabel("NDCG@50, warm, validation")
    axes[0].set_ylim(0, None)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)
