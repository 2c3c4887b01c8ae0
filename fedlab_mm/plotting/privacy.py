"""What an upload tells, and what noise costs and buys."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.plotting.base import PALETTE, bare, closed


def plot_line(place: np.ndarray, own: np.ndarray) -> Figure:
    """Where the rows of one client's upload lie along the line that they share, its own items against the negatives
    that it drew.

    Args:
        place: of each row along the line; own: whether it is one of the client's own.
    """
    figure, axis = plt.subplots(figsize=(6.4, 1.9), layout="constrained")
    height = np.random.default_rng(0).uniform(-1, 1, len(place))
    for mark, colour, marker, name in ((False, "0.6", "o", "drawn as a negative"), (True, PALETTE[1], "s", "its own")):
        axis.scatter(place[own == mark], height[own == mark], s=18, color=colour, marker=marker, label=name, alpha=0.8)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set(yticks=[], ylim=(-1.6, 1.6))
    axis.set_xlabel("place of the row along the line that the upload's rows share")
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_privacy(table: pd.DataFrame, chosen: int | None = None) -> Figure:
    """What noise costs and what it buys: utility, and what an attack still learns, against the variance of the noise.

    Args:
        table: columns noise, rows, ndcg, auc; one line for each value of rows. chosen: mark this row.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3), layout="constrained")
    variances = sorted(table["noise"].unique())
    for colour, marker, (rows, part) in zip(PALETTE, "osd", table.groupby("rows", sort=False), strict=False):
        x = [variances.index(v) for v in part["noise"]]
        left.plot(x, part["ndcg"], "-", marker=marker, color=colour, label=f"rows: {rows}")
        right.plot(x, part["auc"], "-", marker=marker, color=colour, label=f"rows: {rows}")
        if chosen is not None and table["rows"].iloc[chosen] == rows:
            point = variances.index(table["noise"].iloc[chosen])
            for axis, column in ((left, "ndcg"), (right, "auc")):
                axis.plot(point, table[column].iloc[chosen], "o", markersize=13, markerfacecolor="none", color=colour)
    right.axhline(0.5, linestyle=":", color="0.45", linewidth=1, label="coin")
    left.set_ylabel("test NDCG@50")
    left.set_ylim(0, None)
    right.set_ylabel("AUC of item inference")
    right.set_ylim(0.45, 1.02)
    for axis in (left, right):
        axis.set_xticks(range(len(variances)), [f"{v:g}" for v in variances])
        axis.set_xlabel("variance of each client's noise")
        bare(axis)
    right.legend(frameon=False, fontsize=8)
    return closed(figure)
