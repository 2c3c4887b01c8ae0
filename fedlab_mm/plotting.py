"""Pictures of what the other modules compute. Each function returns a matplotlib figure, closed for pyplot: a notebook
shows it once, as the value of its cell, and a script calls `figure.savefig`."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset, Run

PALETTE = sns.color_palette("colorblind")


def plot_items(data: Dataset, items: Sequence[int] | Mapping[str, Sequence[int]], per_row: int = 8) -> Figure:
    """Covers with their titles; a mapping gives each of its entries a row of its own, named on the left.

    Raises:
        FedlabError: the dataset came without covers.
    """
    rows = _rows_of(items, per_row)
    width = max(len(row) for _, row in rows)
    figure, axes = plt.subplots(
        len(rows), width, figsize=(1.25 * width + 0.9, 1.75 * len(rows)), squeeze=False, layout="constrained"
    )
    for (name, row), line in zip(rows, axes, strict=True):
        for n, axis in enumerate(line):
            axis.set_axis_off()
            if n < len(row):
                draw_cover(axis, data, row[n])
        if name:
            line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    return _closed(figure)


def draw_cover(axis: Axes, data: Dataset, item: int) -> None:
    """One item's cover, its title below."""
    if data.covers is None:
        raise FedlabError(f"dataset '{data.name}' holds no covers, only their features")
    axis.imshow(data.covers[item])
    title = "\n".join(textwrap.wrap(data.items["title"].iloc[item], 16)[:3])
    axis.text(
        0.5,
        -0.05,
        title,
        transform=axis.transAxes,
        ha="center",
        va="top",
        fontsize=6.5,
        linespacing=1.05,
        parse_math=False,  # a title may hold dollar signs
    )


def plot_learning_curves(
    runs: Mapping[str, Run], metric: str | None = None, baselines: Mapping[str, float] | None = None
) -> Figure:
    """Training loss and a validation metric over the rounds of several runs; a dot marks the round reported.

    Args:
        runs: label -> run; metric: NDCG@k by default; baselines: label -> value, drawn as level lines.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for colour, (label, run) in zip(PALETTE, runs.items(), strict=False):
        shown = metric or f"ndcg@{run.recipe.k}"
        loss, valid = _curve(run, "train", "loss"), _curve(run, "valid", shown)
        left.plot(loss["round"], loss["value"], color=colour, label=label)
        right.plot(valid["round"], valid["value"], color=colour, label=label)
        best = valid[valid["round"] == run.best_round]
        right.plot(best["round"], best["value"], "o", color=colour)
        right.set_ylabel(f"validation {shown.upper()}")
    for style, (label, value) in zip((":", "--", "-."), (baselines or {}).items(), strict=False):
        right.axhline(value, color="0.45", linestyle=style, linewidth=1, label=label)
    left.set_ylabel("training loss")
    for axis in (left, right):
        axis.set_xlabel("round")
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8)
    return _closed(figure)


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
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center right")
    return _closed(figure)


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
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("router weight")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return _closed(figure)


def plot_recommendations(run: Run, user: int, k: int = 8) -> Figure:
    """What a user has (the most recent items), what it is recommended, and the item that was held out for the test."""
    log = run.data.interactions
    history = log[(log["user"] == user) & (log["split"] == "train")]["item"].tolist()[-k:]
    target = [item for item in run.data.target_U("test")[[user]].tolist() if item >= 0]
    return plot_items(
        run.data,
        {"has": history, "recommended": run.recommend(user, k)["item"].tolist(), "held out": target},
        per_row=k,
    )


def _closed(figure: Figure) -> Figure:
    plt.close(figure)
    return figure


def _rows_of(items: Sequence[int] | Mapping[str, Sequence[int]], per_row: int) -> list[tuple[str, list[int]]]:
    if isinstance(items, Mapping):
        return [(name, list(row)[:per_row]) for name, row in items.items()]
    flat = list(items)
    return [("", flat[start : start + per_row]) for start in range(0, len(flat), per_row)]


def _curve(run: Run, split: str, metric: str) -> pd.DataFrame:
    return run.history[(run.history["split"] == split) & (run.history["metric"] == metric)]
