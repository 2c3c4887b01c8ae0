"""A round of training and what comes of many: bytes on the wire, clients that drift, curves, one user's rounds."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from fedlab_mm.plotting.base import DASHES, MARKERS, PALETTE, bare, closed
from fedlab_mm.plotting.items import draw_cover
from fedlab_mm.records import Dataset

HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")


def plot_traffic(traffic: pd.DataFrame, unit: str = "kB") -> Figure:
    """What moves between server and client, or stays: a panel a way, a bar a method, made of its parts.

    Args:
        traffic: a row for each part: method, way (a panel, in order of appearance), what, size (in `unit`).
    """
    ways, methods, parts = (list(traffic[c].unique()) for c in ("way", "method", "what"))
    totals = traffic.groupby(["way", "method"])["size"].sum()
    figure, axes = plt.subplots(
        1,
        len(ways),
        figsize=(9.4, 0.9 + 0.34 * len(methods)),
        layout="constrained",
        sharey=True,
        squeeze=False,
        width_ratios=[max(totals[way].max(), 0.25 * totals.max()) for way in ways],
    )
    widest = max(totals[way].max() / max(totals[way].max(), 0.25 * totals.max()) for way in ways)
    for axis, way in zip(axes[0], ways, strict=True):
        reach = max(totals[way].max(), 0.25 * totals.max())
        for y, method in enumerate(methods):
            here = traffic[(traffic["way"] == way) & (traffic["method"] == method)]
            left = 0.0
            for what, size in here.groupby("what", sort=False)["size"].sum().items():
                n = parts.index(what)
                axis.barh(y, size, left=left, color=PALETTE[n], hatch=HATCHES[n], edgecolor="white", linewidth=0.5)
                left += size
            text = f"{left:,.0f}" if left >= 9.5 or not left else f"{left:.1f}"
            axis.text(left + 0.02 * reach, y, text, va="center", fontsize=8)
        axis.set(xlim=(0, 1.32 * reach / widest), ylim=(len(methods) - 0.4, -0.6))
        axis.set_title(way, fontsize=9)
        axis.set_xlabel(unit)
        axis.locator_params(axis="x", nbins=max(1, round(5 * reach / totals.max())))
        bare(axis)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    boxes = [
        Rectangle((0, 0), 1, 1, facecolor=PALETTE[n], hatch=HATCHES[n], edgecolor="white") for n in range(len(parts))
    ]
    if len(parts) > 1:
        figure.legend(boxes, parts, frameon=False, fontsize=8, loc="outside lower center", ncols=len(parts))
    return closed(figure)


def plot_paths(paths: Mapping[str, np.ndarray], steps: Sequence[int]) -> Figure:
    """Where clients move one vector that they all began with, and where their mean goes: a projection to the plane that
    shows most of it.

    Args:
        paths: group -> moves [C, S, D], how far from the start each client's copy is after each of `steps`.
    """
    every = np.concatenate(list(paths.values()))
    _, size, axes_KD = np.linalg.svd(every.reshape(-1, every.shape[-1]), full_matrices=False)
    plane_D2 = axes_KD[:2].T
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    marks = list(zip(MARKERS, steps, strict=False))
    for colour, dash, (group, moves) in zip(PALETTE, DASHES, paths.items(), strict=False):
        for n, path_SD in enumerate(moves):
            _path(axis, path_SD @ plane_D2, marks, colour, dash, 0.9, group if n == 0 else None)
    _path(axis, every.mean(axis=0) @ plane_D2, marks, "black", "-", 2.2, "mean of all")
    handles, _ = axis.get_legend_handles_labels()
    handles += [Line2D([], [], color="0.4", linestyle="", marker=m, markersize=5, label=f"{s}") for m, s in marks]
    axis.legend(
        handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), title="marks: steps"
    )
    axis.plot(0, 0, "*", color="black", markersize=11)
    shown = (size[:2] ** 2 / (size**2).sum() * 100).round().astype(int)
    axis.set_xlabel(f"main direction ({shown[0]} % of the squares)")
    axis.set_ylabel(f"second ({shown[1]} %)")
    axis.set_aspect("equal", adjustable="datalim")
    bare(axis)
    return closed(figure)


def _path(axis: Axes, path_S2: np.ndarray, marks: list, colour: object, dash: str, width: float, label: str | None):
    x, y = np.vstack([np.zeros(2), path_S2]).T
    axis.plot(x, y, dash, color=colour, linewidth=width, label=label)
    for n, (marker, _) in enumerate(marks, start=1):
        axis.plot(x[n], y[n], marker, color=colour, markersize=3 if width < 2 else 6)


def plot_series(
    panels: Mapping[str, pd.DataFrame],
    log: Collection[str] = (),
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Curves side by side: a panel for each table, a curve for each of its columns, over its index.

    Args:
        panels: label of the y-axis -> table; the index's name labels the x-axis. A column has one colour and one dash
            throughout; where it is missing it is not drawn.
        log: panels with a logarithmic y-axis; levels: panel -> label -> value, drawn as level lines.
    """
    names = list(dict.fromkeys(str(column) for table in panels.values() for column in table))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.4 + 3.8 * len(panels), 3.2), layout="constrained", squeeze=False
    )
    handles: dict[str, Line2D] = {}
    for axis, (shown, table) in zip(axes[0], panels.items(), strict=True):
        for column in table:
            n, curve = names.index(str(column)), table[column].dropna()
            style, marker = DASHES[n % len(DASHES)], MARKERS[n % len(MARKERS)]
            every = max(1, len(curve) // 6)
            handles[str(column)] = axis.plot(
                curve.index, curve, style, marker=marker, markevery=every, markersize=4, color=PALETTE[n]
            )[0]
        for dash, (label, value) in zip(reversed(DASHES), (levels or {}).get(shown, {}).items(), strict=False):
            handles[label] = axis.axhline(value, color="0.45", linestyle=dash, linewidth=1)
        if shown in log:
            axis.set_yscale("log")
        axis.set_ylabel(shown)
        axis.set_xlabel(str(table.index.name))
        bare(axis)
    figure.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_ranks(ranks: Mapping[str, pd.DataFrame], k: int, user: int | None = None) -> Figure:
    """How each user's held-out item climbs: a panel a run, the median over users, a band for the middle half, and one
    user as a broken line. The top is up.

    Args:
        ranks: label -> round × user, 1 is the top; k: the cut-off, a level line.
    """
    figure, axes = plt.subplots(
        1, len(ranks), figsize=(1.4 + 3.6 * len(ranks), 3.1), layout="constrained", sharey=True, squeeze=False
    )
    lowest = max(float(table.to_numpy().max()) for table in ranks.values())
    for axis, (label, table) in zip(axes[0], ranks.items(), strict=True):
        low, middle, high = np.quantile(table, [0.25, 0.5, 0.75], axis=1)
        axis.fill_between(
            table.index, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="middle half of users"
        )
        axis.plot(table.index, middle, color=PALETTE[0], label="median user")
        if user is not None:
            axis.plot(table.index, table[user], "--", color=PALETTE[1], linewidth=1.2, label=f"user {user}")
        axis.axhline(k, color="0.45", linestyle=":", linewidth=1, label=f"cut-off {k}")
        axis.set_yscale("log")
        axis.set_ylim(1.3 * lowest, 0.8)
        ticks = [t for t in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if t <= lowest]
        axis.set_yticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set_title(label, fontsize=9)
        axis.set_xlabel(str(table.index.name))
        bare(axis)
    axes[0, 0].set_ylabel("rank of the held-out item")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_frames(
    data: Dataset,
    frames: Mapping[int, pd.DataFrame],
    rounds: Sequence[int] | None = None,
    marks: Mapping[str, Collection[int]] | None = None,
) -> Figure:
    """One user's recommendations in some rounds, a row each, best first. Above each cover: whether it came new, rose or
    fell since the row above (for the first row since the frame before it, where there is one).

    Args:
        frames: round -> table with a column item, best first; rounds: which to show, all by default.
        marks: name -> items whose covers get a frame of one colour, the first name that holds an item.

    Raises:
        FedlabError: the dataset came without covers.
    """
    shown = list(frames) if rounds is None else list(rounds)
    before = max((t for t in frames if t < shown[0]), default=None)
    width = max(len(frames[t]) for t in shown)
    figure, axes = plt.subplots(
        len(shown), width, figsize=(1.15 * width + 0.9, 1.75 * len(shown) + 0.3), squeeze=False, layout="constrained"
    )
    previous = None if before is None else frames[before]["item"].tolist()
    for t, line in zip(shown, axes, strict=True):
        items = frames[t]["item"].tolist()
        for axis in line:
            axis.set_axis_off()
        for place, (axis, item) in enumerate(zip(line, items, strict=False)):
            draw_cover(axis, data, item)
            axis.set_title(_moved(item, place, previous), fontsize=7, pad=2)
            colour = next((c for c, held in zip(PALETTE, (marks or {}).values(), strict=False) if item in held), None)
            if colour is not None:
                box = Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor=colour, linewidth=3.5)
                axis.add_patch(box).set_clip_on(False)
        line[0].text(-0.15, 0.5, f"round {t}", transform=line[0].transAxes, ha="right", va="center", fontsize=9)
        previous = items
    if marks:
        boxes = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=c, linewidth=2.5) for c in PALETTE[: len(marks)]]
        figure.legend(boxes, list(marks), frameon=False, fontsize=8, loc="outside lower center", ncols=len(marks))
    return closed(figure)


def _moved(item: int, place: int, previous: list[int] | None) -> str:
    if previous is None:
        return ""
    if item not in previous:
        return "new"
    risen = previous.index(item) - place
    return "=" if not risen else f"{'▲' if risen > 0 else '▼'} {abs(risen)}"
