"""Click prediction: cells beside what was reported, sweeps, groups over rounds, and where a user's attention goes."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab_mm.plotting.base import LEVELS, MARKERS, PALETTE, bare, closed

HATCHES = ["", "///", "...", "xx", "\\\\\\", "++", "oo", "**"]
METRICS = {"auc": "test AUC", "logloss": "test LogLoss"}


def plot_clicks(table: pd.DataFrame, reported: pd.DataFrame | None = None, lines: Sequence[str] = ()) -> Figure:
    """A row for each backbone, a mark for each method: the mean filled, seeds as dots on their range, what was reported
    hollow.

    Args:
        table: columns backbone, method, auc, logloss; a row for each seed. Reported values off the scale of these are
            named at the edge.
        lines: rows of method "centralised" to draw as level lines.
    """
    federated = table[table["method"] != "centralised"]
    backbones, methods = list(dict.fromkeys(federated["backbone"])), list(dict.fromkeys(federated["method"]))
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 1.3 + 0.42 * len(backbones)), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (metric, label) in zip(axes[0], METRICS.items(), strict=True):
        for y, backbone in enumerate(backbones):
            for n, method in enumerate(methods):
                place, colour = y + 0.28 * (n - (len(methods) - 1) / 2), PALETTE[n]
                chosen = (federated["backbone"] == backbone) & (federated["method"] == method)
                mine = federated.loc[chosen, metric]
                if len(mine):
                    axis.plot([mine.min(), mine.max()], [place, place], color=colour, linewidth=1.2, alpha=0.6)
                    axis.plot(mine, [place] * len(mine), ".", color=colour, markersize=4)
                    axis.plot(mine.mean(), place, MARKERS[n], color=colour, markersize=6)
        levels = table[table["backbone"].isin(lines) & (table["method"] == "centralised")]
        for dash, (_, row) in zip(LEVELS, levels.iterrows(), strict=False):
            axis.axvline(row[metric], color="0.45", linestyle=dash, linewidth=1, label=row["backbone"])
        span = axis.get_xlim()
        margin = 0.35 * (span[1] - span[0])
        low, high = span[0] - margin, span[1] + margin
        for _, row in reported.iterrows() if reported is not None else ():
            if row["backbone"] not in backbones or row["method"] not in methods:
                continue
            n, y = methods.index(row["method"]), backbones.index(row["backbone"])
            place = y + 0.28 * (n - (len(methods) - 1) / 2)
            if low <= row[metric] <= high:
                style = {"color": PALETTE[n], "markerfacecolor": "none", "markersize": 6}
                axis.plot(row[metric], place, MARKERS[n], **style)
            else:
                side = high if row[metric] > high else low
                align = "right" if row[metric] > high else "left"
                arrow = f"{row[metric]:.3f} →" if row[metric] > high else f"← {row[metric]:.3f}"
                axis.text(side, place, arrow, color=PALETTE[n], fontsize=8, ha=align, va="center")
        axis.set_xlim(low, high)
        axis.set_xlabel(label)
        bare(axis)
    axes[0, 0].set_yticks(range(len(backbones)), backbones)
    axes[0, 0].invert_yaxis()
    handles = [
        Line2D([], [], color=PALETTE[n], marker=MARKERS[n], linestyle="", label=m) for n, m in enumerate(methods)
    ]
    if reported is not None:
        handles.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="none", linestyle="", label="reported"))
    handles += axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside upper center", ncols=len(handles))
    return closed(figure)


def plot_showings(showings: pd.DataFrame, colour: str, per_row: str = "user") -> Figure:
    """What some users were shown, in order: filled where it was clicked, coloured by an attribute.

    Args:
        showings: columns click, the ones named by `colour` (codes) and `per_row`; in the order of time.
    """
    rows, codes = list(dict.fromkeys(showings[per_row])), sorted(set(showings[colour]))
    longest = int(showings.groupby(per_row).size().max())
    figure, axis = plt.subplots(figsize=(min(10, 2 + 0.16 * longest), 0.9 + 0.35 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        own = showings[showings[per_row] == row].reset_index(drop=True)
        for n, code in enumerate(codes):
            style = {"marker": MARKERS[n % len(MARKERS)], "color": PALETTE[n % len(PALETTE)], "linestyle": ""}
            for click, face in ((1, style["color"]), (0, "none")):
                places = np.flatnonzero((own[colour] == code) & (own["click"] == click))
                axis.plot(places + 1, [y] * len(places), **style, markerfacecolor=face, markersize=5)
    axis.set_yticks(range(len(rows)), [f"{per_row} {row}" for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel("showing (filled: clicked)")
    handles = [
        Line2D(
            [],
            [],
            marker=MARKERS[n % len(MARKERS)],
            color=PALETTE[n % len(PALETTE)],
            linestyle="",
            label=f"{colour} {c}",
        )
        for n, c in enumerate(codes)
    ]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    bare(axis)
    return closed(figure)


def plot_attention(weights: dict[str, np.ndarray], marks: Sequence[str]) -> Figure:
    """Where each showing's prediction looks: a panel for each name, rows attend to columns.

    Args:
        weights: name -> [T, T]; marks: what stands under the columns, one for each position.
    """
    figure, axes = plt.subplots(
        1, len(weights), figsize=(0.6 + 3.4 * len(weights), 3.6), layout="constrained", squeeze=False, sharey=True
    )
    top = max(float(w.max()) for w in weights.values())
    for axis, (name, weight) in zip(axes[0], weights.items(), strict=True):
        image = axis.imshow(np.where(np.tri(len(weight)) > 0, weight, np.nan), cmap="Blues", vmin=0, vmax=top)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(range(len(marks)), marks, fontsize=7)
        axis.set_xlabel("showing before, clicked or not")
    axes[0, 0].set_ylabel("prediction of showing")
    figure.colorbar(image, ax=list(axes[0]), label="attention", shrink=0.8)
    return closed(figure)


def plot_sweeps(table: pd.DataFrame) -> Figure:
    """AUC and LogLoss against each thing that was changed; its values stand evenly, as names.

    Args:
        table: columns changed, value, auc, logloss; a row for each seed.
    """
    changed = list(dict.fromkeys(table["changed"]))
    figure, axes = plt.subplots(
        2,
        len(changed),
        figsize=(1 + max(2.1, min(3.4, 9 / len(changed))) * len(changed), 4.2),
        layout="constrained",
        squeeze=False,
        sharey="row",
    )
    for axis, label in zip(axes[:, 0], METRICS.values(), strict=True):
        axis.set_ylabel(label)
    for column, what in zip(axes.T, changed, strict=True):
        part = table[table["changed"] == what]
        values = list(dict.fromkeys(part["value"]))
        for axis, metric in zip(column, METRICS, strict=True):
            of_value = part.groupby("value", sort=False)[metric]
            x = np.arange(len(values))
            axis.vlines(x, of_value.min(), of_value.max(), color=PALETTE[0], alpha=0.6, linewidth=1.2)
            axis.plot(x, of_value.mean(), color=PALETTE[0], marker="o", markersize=5, linewidth=1)
            place = part["value"].map(values.index)
            axis.plot(place, part[metric], ".", color=PALETTE[0], markersize=4)
            axis.set_xticks(x, [_named(v) for v in values])
            axis.margins(x=0.15)
            bare(axis)
        column[-1].set_xlabel(what)
    return closed(figure)


def _named(value: object) -> str:
    """0.10 as 0.1, also where a table's column holds names too and so came back from its file as text."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def plot_sizes(table: pd.DataFrame) -> Figure:
    """Counted numbers of each model, part by part, beside what was reported of it.

    Args:
        table: columns backbone, part, ours, reported; a row for each part, the reported total in each of them.
    """
    backbones, parts = list(dict.fromkeys(table["backbone"])), list(dict.fromkeys(table["part"]))
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.5 * len(backbones)), layout="constrained")
    for y, backbone in enumerate(backbones):
        own = table[table["backbone"] == backbone].set_index("part")
        left = 0.0
        for n, part in enumerate(parts):
            wide = float(own["ours"].get(part, 0)) / 1e3
            axis.barh(
                y, wide, 0.55, left, color=PALETTE[n], hatch=HATCHES[n], edgecolor="white", linewidth=0.5,
                label=part if y == 0 else None,
            )  # fmt: skip
            left += wide
        axis.plot(own["reported"].iloc[0] / 1e3, y, "D", color="0.2", markerfacecolor="none", markersize=7)
    axis.set_yticks(range(len(backbones)), backbones)
    axis.invert_yaxis()
    axis.set_xlabel("thousands of numbers on a client (◇ reported)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    bare(axis)
    return closed(figure)


def plot_shares(table: pd.DataFrame) -> Figure:
    """The share of users in each group against rounds: a row for each block, a column for each variant.

    Args:
        table: columns variant, round, block, group, share.
    """
    variants, blocks = list(dict.fromkeys(table["variant"])), sorted(set(table["block"]))
    figure, axes = plt.subplots(
        len(blocks),
        len(variants),
        figsize=(1 + max(1.9, min(3, 9 / len(variants))) * len(variants), 0.6 + 1.8 * len(blocks)),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for r, block in enumerate(blocks):
        for c, variant in enumerate(variants):
            axis = axes[r, c]
            part = table[(table["variant"] == variant) & (table["block"] == block)]
            wide = part.pivot_table(index="round", columns="group", values="share")
            layers = axis.stackplot(wide.index, wide.to_numpy().T, colors=PALETTE[: wide.shape[1]], linewidth=0)
            for layer, hatch, group in zip(layers, HATCHES, wide.columns, strict=False):
                layer.set(hatch=hatch, edgecolor="white", label=f"group {group}")
            axis.set_ylim(0, 1)
            axis.set_xlim(wide.index.min(), wide.index.max())
            if r == 0:
                axis.set_title(variant, fontsize=9)
            if c == 0:
                axis.set_ylabel(f"block {block + 1}: users")
            bare(axis)
    for axis in axes[-1]:
        axis.set_xlabel("round")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)
