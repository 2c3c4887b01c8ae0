"""Users as what is drawn: how active they are, how well each group is served, and what so many of them can show."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import spearmanr

from fedlab_mm.plotting.base import DASHES, MARKERS, PALETTE, bare, closed
from fedlab_mm.records import Dataset


def plot_activity(data: Dataset, groups: pd.Series) -> Figure:
    """How many users have so many training interactions, in colours that change from group to group.

    Args:
        groups: each user's group, an ordered category, as `audit.by_activity` gives them.
    """
    figure, axis = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    lengths = pd.Series(data.train.lengths)
    edges = [start + 0.5 for start in range(0, int(lengths.max()) + 5, max(1, int(lengths.max()) // 40))]
    parts = [lengths[(groups == name).to_numpy()] for name in groups.cat.categories]
    shades = plt.colormaps["cividis"](np.linspace(0.05, 0.9, len(parts)))
    labels = [f"{name}: {len(part)} users" for name, part in zip(groups.cat.categories, parts, strict=True)]
    axis.hist(parts, bins=edges, stacked=True, color=list(shades), label=labels)
    axis.set_xlabel("training interactions of a user")
    axis.set_ylabel("users")
    axis.legend(frameon=False, fontsize=8)
    bare(axis)
    return closed(figure)


def plot_groups(table: pd.DataFrame, ylabel: str, xlabel: str = "", line: float | None = None) -> Figure:
    """A mark for each scorer in each group of users, with its interval; how many they are stands below.

    Args:
        table: scorer, group, users, mean, low, high, as `audit.group_means` gives it; line: a level to compare with.
    """
    scorers, groups = list(dict.fromkeys(table["scorer"])), list(dict.fromkeys(table["group"]))
    figure, axis = plt.subplots(figsize=(min(1.3 * len(groups) + 2.6, 10), 3.2), layout="constrained")
    step = 0.72 / len(scorers)
    for n, scorer in enumerate(scorers):
        part = table[table["scorer"] == scorer].set_index("group").reindex(groups)
        place = np.arange(len(groups)) + step * (n - (len(scorers) - 1) / 2)
        reach = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
        colour, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
        axis.errorbar(place, part["mean"], reach, fmt=marker, color=colour, capsize=2, markersize=5, label=scorer)
    if line is not None:
        axis.axhline(line, color="0.45", linestyle=":", linewidth=1)
    for border in np.arange(len(groups) - 1) + 0.5:
        axis.axvline(border, color="0.9", linewidth=0.8)
    users = table.drop_duplicates("group").set_index("group")["users"]
    axis.set_xticks(range(len(groups)), [f"{group}\nn = {users[group]}" for group in groups], fontsize=9)
    axis.set_xlim(-0.5, len(groups) - 0.5)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    bare(axis)
    if len(scorers) > 1:
        figure.legend(frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_preferences(
    truth: pd.DataFrame, estimates: Mapping[str, pd.DataFrame], few_U: np.ndarray | None = None
) -> Figure:
    """What was planted against what was found, a dot for each user: a row for each estimate, a panel for each signal,
    with Spearman's correlation.

    Args:
        truth: user × signal; estimates: name -> the same columns; few_U: users to mark, those with few interactions.
    """
    signals = list(truth)
    figure, axes = plt.subplots(
        len(estimates), len(signals), figsize=(2.5 * len(signals) + 1.2, 2.2 * len(estimates) + 0.3),
        layout="constrained", sharex=True, sharey="row", squeeze=False,
    )  # fmt: skip
    few_U = np.zeros(len(truth), dtype=bool) if few_U is None else np.asarray(few_U)
    for line, (name, estimate) in zip(axes, estimates.items(), strict=True):
        for axis, signal in zip(line, signals, strict=True):
            for chosen, colour, marker, label in ((~few_U, PALETTE[0], "o", "others"), (few_U, PALETTE[1], "^", "few")):
                if chosen.any():
                    x, y = truth[signal][chosen], estimate[signal][chosen]
                    axis.plot(x, y, marker, color=colour, markersize=4, alpha=0.5, markeredgewidth=0, label=label)
            axis.set_title(f"{signal}: ρ = {spearmanr(truth[signal], estimate[signal])[0]:.2f}", fontsize=9)
            bare(axis)
        line[0].set_ylabel(name)
    for axis in axes[-1]:
        axis.set_xlabel("planted reliance")
    if few_U.any():
        handles, labels = axes[0, 0].get_legend_handles_labels()
        named = [f"{few_U.sum()} least active" if label == "few" else label for label in labels]
        figure.legend(handles, named, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_numbers(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Along the item numbers: what share of test targets, of training interactions, and of a user's, a block holds.

    Args:
        tables: name -> "numbers" of `audit.audit_tables`.
    """
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.2 * len(tables) + 0.4, 2.8), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        starts = [*table.index, int(table.index[-1] + table["items"].iloc[-1])]
        axis.stairs(table["targets"], starts, fill=True, color=PALETTE[0], alpha=0.6, label="test targets")
        axis.stairs(
            table["training"], starts, color="0.15", linewidth=1.5, linestyle="--", label="training interactions"
        )
        axis.stairs(table["of a user"], starts, color=PALETTE[1], linewidth=1.5, label="a user's, on average")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("item number")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        bare(axis)
    axes[0, 0].set_ylabel("share in the block")
    axes[0, -1].legend(frameon=False, fontsize=8)
    return closed(figure)


def plot_power(power: pd.DataFrame, metric: str, difference: float) -> Figure:
    """The smallest difference that so many users show, a line for each way to compare; a level line where one wants it.

    Args:
        power: "power" of `audit.audit_tables`; metric: one of its index; difference: the one wanted.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
    for n, (compared, part) in enumerate(power.loc[[metric]].groupby("compared", sort=False)):
        style = {"color": PALETTE[n], "marker": MARKERS[n], "linestyle": DASHES[n], "markersize": 5}
        axis.plot(part["users"], part["detectable"], **style, label=compared)
    axis.axhline(difference, color="0.45", linewidth=1)
    axis.set(xscale="log", yscale="log")
    sizes = power["users"].unique()
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    low, high = power.loc[[metric], "detectable"].agg(["min", "max"])
    levels = [v for v in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if low / 1.5 < v < high * 1.5]
    axis.set_yticks(levels, [f"{v:g}" for v in levels])
    axis.minorticks_off()
    axis.set_xlabel("users")
    axis.set_ylabel(f"detectable difference of {metric.upper()}")
    axis.legend(frameon=False, fontsize=8)
    bare(axis)
    return closed(figure)


def plot_figures(table: pd.DataFrame, lines: Mapping[str, float], xlabel: str) -> Figure:
    """Printed figures as dots with their intervals, the highest on top, and level lines to hold against them.

    Args:
        table: value, low, high, a row for each figure by name; lines: name -> value.
    """
    table = table.sort_values("value")
    figure, axis = plt.subplots(figsize=(6.8, 0.23 * len(table) + 1.1), layout="constrained")
    place = np.arange(len(table))
    reach = [table["value"] - table["low"], table["high"] - table["value"]]
    axis.errorbar(table["value"], place, xerr=reach, fmt="o", color=PALETTE[0], capsize=2, markersize=4)
    for n, (name, value) in enumerate(lines.items()):
        axis.axvline(value, color=PALETTE[1 + n], linestyle=DASHES[n % len(DASHES)], label=f"{name}: {value:.3f}")
    axis.set_yticks(place, [str(name) for name in table.index], fontsize=8)
    axis.set_ylim(-0.7, len(table) - 0.3)
    axis.set_xlabel(xlabel)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    bare(axis)
    return closed(figure)


def plot_heterogeneity(interactions: pd.Series, weights: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Three panels: how many users have how many interactions, what their routers weigh, accuracy by activity.

    Args:
        interactions: of each user; weights: user × signal, rows sum to one.
        means: scorer, group, users, mean, low, high, as `audit.group_means` gives it.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    few, most = int(interactions.min()), int(interactions.max())
    left.hist(interactions, bins=np.geomspace(few, most + 1, 24) - 0.5, color=PALETTE[0], alpha=0.7)
    ticks = [few, *(tick for tick in (10, 30, 100, 300, 1000) if 1.5 * few < tick < most / 1.5), most]
    left.set_xscale("log")
    left.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    left.minorticks_off()
    left.set_xlabel("training interactions of a user")
    left.set_ylabel("users")
    middle.violinplot([weights[s] for s in weights], showmedians=True)
    middle.set_xticks(range(1, weights.shape[1] + 1), list(weights))
    middle.set_ylabel("router weight")
    middle.set_ylim(0, 1)
    groups = list(dict.fromkeys(means["group"]))
    for n, (scorer, part) in enumerate(means.groupby("scorer", sort=False)):
        place = np.arange(len(groups)) + 0.16 * (n - 0.5)
        reach = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
        right.errorbar(place, part["mean"], reach, fmt=MARKERS[n], color=PALETTE[n], capsize=3, label=str(scorer))
    sizes = means.groupby("group", observed=True)["users"].first()
    right.set_xticks(range(len(groups)), [f"{g}\n{sizes[g]} users" for g in groups], fontsize=8)
    right.set_xlabel("training interactions")
    right.set_ylabel("test NDCG@50")
    right.set_ylim(0, None)
    right.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in (left, middle, right):
        bare(axis)
    return closed(figure)
