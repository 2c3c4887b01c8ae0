"""What a dataset is like, and what an encoder makes of it."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from fedlab_mm.plotting.base import PALETTE, bare, closed
from fedlab_mm.records import Dataset


def plot_matrix(data: Dataset) -> Figure:
    """Every interaction as a dot, active users on top, popular items on the left, targets in colour."""
    log = data.interactions
    rank_U = (-log["user"].value_counts().reindex(range(data.n_users), fill_value=0)).rank(method="first")
    rank_I = (-log["item"].value_counts().reindex(range(data.n_items), fill_value=0)).rank(method="first")
    figure, axis = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    for split, colour, size in (("train", "0.55", 1.2), ("valid", PALETTE[0], 7), ("test", PALETTE[1], 7)):
        part = log[log["split"] == split]
        x, y = rank_I.to_numpy()[part["item"]], rank_U.to_numpy()[part["user"]]
        axis.scatter(x, y, s=size, color=colour, linewidths=0, label=f"{split}, {len(part):,}")
    axis.set(xlim=(0, data.n_items + 1), ylim=(data.n_users + 1, 0))
    axis.set_xlabel("item, most popular first")
    axis.set_ylabel("user, most active first")
    bare(axis)
    legend = figure.legend(frameon=False, fontsize=8, loc="outside right center", markerscale=1.5)
    legend.legend_handles[0].set_sizes([8])  # type: ignore[union-attr]
    return closed(figure)


def plot_long_tail(datasets: Mapping[str, Dataset]) -> Figure:
    """What share of all training interactions the most popular items take, and how many of them users have."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for colour, (name, data) in zip(PALETTE, datasets.items(), strict=False):
        counts = np.sort(data.popularity_I)[::-1]
        share = np.concatenate([[0], np.cumsum(counts) / counts.sum()])
        left.plot(100 * np.linspace(0, 1, len(share)), 100 * share, color=colour, label=name)
        lengths = np.sort(data.train.lengths)
        right.step(lengths, 100 * (1 - np.arange(len(lengths)) / len(lengths)), where="pre", color=colour, label=name)
    left.plot([0, 100], [0, 100], ":", color="0.45", linewidth=1, label="all alike")
    left.set_xlabel("% of items, most popular first")
    left.set_ylabel("% of interactions")
    right.set_xscale("log")
    right.xaxis.set_major_formatter(ScalarFormatter())
    right.set_xlabel("training interactions")
    right.set_ylabel("% of users with at least so many")
    for axis in (left, right):
        bare(axis)
    left.legend(frameon=False, fontsize=8)
    return closed(figure)


def plot_timeline(splits: Mapping[str, Dataset], users: Sequence[int]) -> Figure:
    """Some users' interactions along the clock, once for each way to split; a line where the first target lies."""
    figure, axes = plt.subplots(
        1, len(splits), figsize=(4.6 * len(splits), 3.2), layout="constrained", sharey=True, sharex=True, squeeze=False
    )
    for axis, (name, data) in zip(axes[0], splits.items(), strict=True):
        log = data.interactions
        times = pd.to_datetime(log["timestamp"], unit="s")
        for split, colour, marker in (("train", "0.55", "|"), ("valid", PALETTE[0], "o"), ("test", PALETTE[1], "s")):
            for row, user in enumerate(users):
                chosen = ((log["user"] == user) & (log["split"] == split)).to_numpy()
                label = split if row == 0 else None
                axis.plot(times[chosen], np.full(chosen.sum(), row), marker, color=colour, markersize=6, label=label)
        axis.axvline(times[log["split"] == "test"].min(), linestyle=":", color=PALETTE[1], linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.set(ylim=(len(users) - 0.5, -0.5), yticks=range(len(users)))
        axis.set_yticklabels([f"user {u}" for u in users])
        axis.tick_params(axis="x", labelrotation=30, labelsize=7)
        bare(axis)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_rules(hits: pd.Series, k: int) -> Figure:
    """Hit rates of rules and recommenders as bars, those that look at no user's taste in grey.

    Args:
        hits: name -> share of targets among the first k, in the order to draw; a name in brackets is drawn in colour.
    """
    figure, axis = plt.subplots(figsize=(6.6, 0.32 * len(hits) + 0.8), layout="constrained")
    learned = [name.startswith("[") for name in hits.index]
    names = [name.strip("[]") for name in hits.index]
    axis.barh(names, hits, color=[PALETTE[0] if mark else "0.7" for mark in learned])
    for row, value in enumerate(hits):
        axis.text(value, row, f" {value:.2f}", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, max(hits) * 1.12)
    axis.set_xlabel(f"share of test targets among the first {k}")
    bare(axis)
    return closed(figure)


def plot_similarities(features: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Cosines between all items, a panel for each entry, items sorted by kind, with lines between the kinds.

    Args:
        features: name -> unit vectors [I, d] and each item's kind [I].
    """
    width = 3.4 * len(features) + 0.6
    figure, axes = plt.subplots(1, len(features), figsize=(width, 3.4), layout="constrained", squeeze=False)
    for axis, (name, (vectors, kind)) in zip(axes[0], features.items(), strict=True):
        order = np.argsort(kind, kind="stable")
        cosines = vectors[order] @ vectors[order].T
        image = axis.imshow(cosines, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        for border in np.flatnonzero(np.diff(kind[order])) + 0.5:
            axis.axhline(border, color="white", linewidth=0.5)
            axis.axvline(border, color="white", linewidth=0.5)
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(axes[0]), shrink=0.8, label="cosine")
    return closed(figure)
