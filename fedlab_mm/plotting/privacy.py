"""What an upload tells, and what noise costs and buys."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.plotting.base import DASHES, MARKERS, PALETTE, bare, closed
from fedlab_mm.plotting.reported import NAMES


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


def plot_noise(table: pd.DataFrame) -> Figure:
    """Utility and attack against the variance of the noise, a line for each backbone.

    Args:
        table: columns backbone, noise, seed, ndcg@50, auc, "auc low", "auc high".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.4), layout="constrained")
    variances = sorted(table["noise"].unique())
    for n, (backbone, part) in enumerate(table.groupby("backbone", sort=False)):
        x = np.array([variances.index(v) for v in sorted(part["noise"].unique())])
        style = {"marker": MARKERS[n], "linestyle": DASHES[n % len(DASHES)], "color": PALETTE[n], "markersize": 5}
        ndcg, auc = part.groupby("noise")["ndcg@50"], part.groupby("noise")[["auc", "auc low", "auc high"]].mean()
        left.fill_between(x, ndcg.min(), ndcg.max(), color=PALETTE[n], alpha=0.15, linewidth=0)
        left.plot(x, ndcg.mean(), label=NAMES.get(str(backbone), str(backbone)), **style)
        right.fill_between(x, auc["auc low"], auc["auc high"], color=PALETTE[n], alpha=0.15, linewidth=0)
        right.plot(x, auc["auc"], **style)
    right.axhline(0.5, linestyle=":", color="0.45", linewidth=1)
    right.annotate("coin", (0, 0.5), xytext=(0, 3), textcoords="offset points", fontsize=7, color="0.3")
    left.set_ylabel("test NDCG@50")
    left.set_ylim(0, None)
    right.set_ylabel("AUC of item inference")
    right.set_ylim(0.45, 1.02)
    for axis in (left, right):
        axis.set_xticks(range(len(variances)), [f"{v:g}" for v in variances], rotation=45, fontsize=8)
        axis.set_xlabel("variance of each client's noise")
        bare(axis)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_defences(table: pd.DataFrame) -> Figure:
    """What each defence costs and buys: utility to the left, attack to the right, defences as rows; clients that step
    filled, clients that solve hollow.

    Args:
        table: columns client ("steps" or "solved"; all step, if it is left out), defence, seed, ndcg@50, auc,
            "auc low", "auc high", epsilon; "popularity alone" is drawn as a line.
    """
    floor = table[table["defence"] == "popularity alone"]
    table = table[table["defence"] != "popularity alone"]
    if "client" not in table:
        table = table.assign(client="steps")
    rows, clients = list(dict.fromkeys(table["defence"])), list(dict.fromkeys(table["client"]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 0.36 * len(rows) + 1.2), layout="constrained", sharey=True)
    for (client, name), part in table.groupby(["client", "defence"], sort=False):
        y = rows.index(str(name)) + (clients.index(str(client)) - (len(clients) - 1) / 2) * 0.36
        fill = "white" if client == "solved" else None
        ndcg, first = part["ndcg@50"].dropna(), part.iloc[0]
        if len(ndcg):
            left.plot([ndcg.min(), ndcg.max()], [y, y], color=PALETTE[0])
            left.plot(ndcg.mean(), y, "o", color=PALETTE[0], markerfacecolor=fill, markersize=5)
        right.plot([first["auc low"], first["auc high"]], [y, y], color=PALETTE[1])
        right.plot(first["auc"], y, "s", color=PALETTE[1], markerfacecolor=fill, markersize=5)
        if np.isfinite(first["epsilon"]) and client == clients[0]:
            right.text(1.04, rows.index(str(name)), f"ε = {first['epsilon']:,.0f}", va="center", fontsize=8)
    right.axvline(0.5, linestyle=":", color="0.45", linewidth=1)
    right.text(0.5, -0.8, "coin", fontsize=7, ha="center", color="0.3")
    if len(floor):
        right.axvline(floor["auc"].iloc[0], linestyle="--", color="0.45", linewidth=1)
        right.text(floor["auc"].iloc[0], -0.8, "popularity", fontsize=7, ha="center", color="0.3")
    left.set_yticks(range(len(rows)), rows, fontsize=8)
    left.set_ylim(len(rows) - 0.5, -1.1)
    left.set_xlim(0, None)
    left.set_xlabel("test NDCG@50")
    right.set_xlim(0.4, 1.03)
    right.set_xlabel("AUC of item inference")
    if len(clients) > 1:
        told = {"steps": "clients step", "solved": "clients solve"}
        for client in clients:
            fill = "white" if client == "solved" else None
            left.plot([], [], "o", color=PALETTE[0], markerfacecolor=fill, markersize=5, label=told[client])
        figure.legend(frameon=False, fontsize=8, loc="outside upper right", ncols=2)
    for axis in (left, right):
        axis.grid(axis="y", color="0.92")
        bare(axis)
    return closed(figure)


def plot_tradeoffs(table: pd.DataFrame) -> Figure:
    """Utility against what is proven (ε), and against what an attack still learns, each defence a numbered dot.

    Args:
        table: columns client, defence, seed, ndcg@50, auc, epsilon; of clients that step, without "popularity alone".
    """
    table = table[table["defence"] != "popularity alone"]
    if "client" in table:
        table = table[table["client"] == "steps"]
    means = table.groupby("defence", sort=False)[["ndcg@50", "auc", "epsilon"]].mean()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.4, 0.22 * len(means) + 1.4), layout="constrained", sharey=True, width_ratios=(2, 3)
    )
    proven = means[np.isfinite(means["epsilon"])].sort_values("epsilon")
    left.plot(proven["epsilon"], proven["ndcg@50"], "o-", color=PALETTE[0], label="differential privacy")
    left.axhline(means["ndcg@50"].iloc[0], linestyle=":", color="0.45", linewidth=1, label="no defence")
    left.set_xscale("log")
    left.set_xlabel("ε (smaller proves more)")
    left.set_ylabel("test NDCG@50")
    left.set_ylim(0, 1.12 * means["ndcg@50"].max())
    left.legend(frameon=False, fontsize=8, loc="lower right")
    for n, (name, row) in enumerate(means.iterrows(), start=1):
        colour = PALETTE[0] if np.isfinite(row["epsilon"]) else PALETTE[1]
        right.plot(row["auc"], row["ndcg@50"], "o", color=colour, markersize=4, label=f"{n}  {name}")
        right.annotate(str(n), (row["auc"], row["ndcg@50"]), xytext=(3, 3), textcoords="offset points", fontsize=8)
    right.axvline(0.5, linestyle=":", color="0.45", linewidth=1)
    right.set_xlabel("AUC of item inference (0.5 is a coin)")
    right.set_xlim(0.45, 1.04)
    figure.legend(
        *right.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center", handlelength=0.6
    )
    for axis in (left, right):
        bare(axis)
    return closed(figure)
