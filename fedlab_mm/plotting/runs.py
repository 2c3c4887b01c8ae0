"""Training as it goes, and where the routers go."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.experiments.run import Run
from fedlab_mm.plotting.base import DASHES, PALETTE, bare, closed


def plot_learning_curves(
    runs: Mapping[str, Run], metric: str | None = None, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Training loss and a validation metric over the rounds of several runs; a dot marks the round reported.

    Args:
        runs: label -> run; metric: NDCG@k by default; baselines: label -> value, drawn as level lines.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for n, (label, run) in enumerate(runs.items()):
        colour, dash = PALETTE[n % len(PALETTE)], DASHES[n % len(DASHES)]
        shown = metric or f"ndcg@{run.recipe.k}"
        loss, valid = _curve(run, "train", "loss"), _curve(run, "valid", shown)
        left.plot(loss["round"], loss["value"], dash, color=colour, label=label)
        right.plot(valid["round"], valid["value"], dash, color=colour, label=label)
        best = valid[valid["round"] == run.best_round]
        right.plot(best["round"], best["value"], "o", color=colour)
        right.set_ylabel(f"validation {shown.upper()}")
    for style, (label, value) in zip((":", "--", "-."), (baselines or {}).items(), strict=False):
        right.axhline(value, color="0.45", linestyle=style, linewidth=1, label=label)
    left.set_ylabel("training loss")
    for axis in (left, right):
        axis.set_xlabel("round")
        bare(axis)
    right.legend(frameon=False, fontsize=8)
    return closed(figure)


def plot_router_rounds(weights: Mapping[int, pd.DataFrame], user: int | None = None) -> Figure:
    """How the routers' weights move over the rounds: the median over users, a band from the 5th to the 95th percentile,
    and one user as a broken line.

    Args:
        weights: round -> user × operator, as `Run.router_weights` gives them.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
    rounds = list(weights)
    for colour, operator in zip(PALETTE, weights[rounds[0]], strict=False):
        by_round = np.stack([weights[t][operator] for t in rounds])
        low, middle, high = np.quantile(by_round, [0.05, 0.5, 0.95], axis=1)
        axis.fill_between(rounds, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(rounds, middle, color=colour, label=operator)
        if user is not None:
            axis.plot(rounds, by_round[:, user], "--", color=colour, linewidth=1)
    if user is not None:
        axis.plot([], [], "--", color="0.4", linewidth=1, label=f"user {user}")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("round")
    axis.set_ylabel("router weight")
    bare(axis)
    axis.legend(frameon=False, fontsize=8, loc="center right")
    return closed(figure)


def plot_router_groups(weights: pd.DataFrame, groups: pd.Series) -> Figure:
    """Every user's router as a column of its weights, a panel for each group of users, sorted by the largest view.

    Args:
        weights: user × operator, as `Run.router_weights` gives them.
        groups: each user's group, by name; the largest group's panel comes first.
    """
    order = list(groups.value_counts().index)
    widths = groups.value_counts()[order].tolist()
    figure, axes = plt.subplots(
        1, len(order), figsize=(8, 2.8), layout="constrained", sharey=True, width_ratios=widths, squeeze=False
    )
    for axis, group in zip(axes[0], order, strict=True):
        own = weights[(groups == group).to_numpy()]
        largest = own.mean().idxmax()
        own = own.sort_values(largest, ascending=False)
        below = np.zeros(len(own))
        for colour, view in zip(PALETTE, weights.columns, strict=False):
            axis.bar(np.arange(len(own)), own[view], bottom=below, width=1.0, color=colour, label=view)
            below += own[view].to_numpy()
        axis.set(xlim=(-0.5, len(own) - 0.5), ylim=(0, 1), xticks=[])
        axis.set_xlabel(f"{group}\n{len(own)} users", fontsize=8)
        bare(axis)
    axes[0, 0].set_ylabel("router weight")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def _curve(run: Run, split: str, metric: str) -> pd.DataFrame:
    return run.history[(run.history["split"] == split) & (run.history["metric"] == metric)]


def plot_comparison(table: pd.DataFrame, metric: str | None = None) -> Figure:
    """A comparison as `compare` returns it: a row for each recipe, its mean over seeds with a bar of one standard
    deviation to either side; baselines, which have no seeds, as level lines.

    Args:
        metric: a column of the table; NDCG@k if left out.
    """
    metric = metric or next(name for name in table.columns.get_level_values(0) if str(name).startswith("ndcg@"))
    mean, sd = table[metric, "mean"], table[metric, "sd"]
    is_line = sd.isna() & ~mean.index.str.contains(" + ", regex=False)
    rows = list(table.index[~is_line])
    figure, axis = plt.subplots(figsize=(6.8, 0.4 * len(rows) + 1.2), layout="constrained")
    lines = zip((":", "-", "--"), (1, 4, 1), ("0.45", "0.85", "0.3"), table.index[is_line], strict=False)
    for dash, width, grey, name in lines:  # two that coincide can still be told apart
        axis.axvline(mean[name], color=grey, linestyle=dash, linewidth=width, label=name, zorder=0)
    axis.errorbar(mean[rows], range(len(rows)), xerr=sd[rows].fillna(0), fmt="o", color=PALETTE[0], capsize=3)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(f"test {metric.upper()}, mean and standard deviation over seeds")
    bare(axis)
    if is_line.any():
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=int(is_line.sum()))
    return closed(figure)
