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
from matplotlib.ticker import ScalarFormatter

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
    axis.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, fontsize=8, loc="outside right center", markerscale=1.5)
    legend.legend_handles[0].set_sizes([8])  # type: ignore[union-attr]
    return _closed(figure)


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
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    return _closed(figure)


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
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return _closed(figure)


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
    axis.spines[["top", "right"]].set_visible(False)
    return _closed(figure)


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
    return _closed(figure)


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
    return _closed(figure)


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
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8)
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
