"""What is left when a part is taken away or exchanged, and what the share of clients in a round does."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab_mm.plotting.base import DASHES, LEVELS, MARKERS, PALETTE, bare, closed


def plot_variants(
    table: pd.DataFrame,
    metrics: str | Sequence[str] = "ndcg@50",
    reported: pd.DataFrame | None = None,
    lines: pd.DataFrame | None = None,
    group: str = "backbone",
    label: str | None = None,
) -> Figure:
    """Groups side by side, a mark for each variant: the mean filled, every seed a small dot on a bar over their range,
    what was reported hollow at its side. One panel for each metric; a line at zero where values fall below it.

    Args:
        table: columns variant, the one named by `group`, and the metrics; a row for each seed.
        reported: columns variant, the one named by `group`, and any of the metrics.
        lines: name -> metrics, drawn as level lines.
        label: of the vertical axis, where "test" and the metric will not do.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    groups, variants = list(dict.fromkeys(table[group])), list(dict.fromkeys(table["variant"]))
    step = 0.8 / len(variants)
    width = max(5.5, 3 + 0.27 * len(groups) * len(variants))
    figure, axes = plt.subplots(
        len(metrics), 1, figsize=(width, 3 * len(metrics)), layout="constrained", sharex=True, squeeze=False
    )
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        for x, name in enumerate(groups):
            for n, variant in enumerate(variants):
                place, style = x - 0.4 + step * (n + 0.5), _mark(n)
                mine = _of(table, group, name, variant, metric)
                if len(mine):
                    axis.plot([place, place], [mine.min(), mine.max()], color=style["color"], linewidth=1.2, alpha=0.6)
                    axis.plot([place] * len(mine), mine, ".", color=style["color"], markersize=4)
                    axis.plot(place, mine.mean(), **style)
                if reported is not None and metric in reported:
                    theirs = _of(reported, group, name, variant, metric)
                    if len(theirs):
                        axis.plot([place + 0.3 * step] * len(theirs), theirs, **style, markerfacecolor="none")
        for dash, (name, row) in zip(LEVELS, (lines if lines is not None else pd.DataFrame()).iterrows(), strict=False):
            axis.axhline(row[metric], color="0.45", linestyle=dash, linewidth=1, label=str(name))
        for border in np.arange(len(groups) - 1) + 0.5:
            axis.axvline(border, color="0.88", linewidth=0.8)
        if axis.get_ylim()[0] < 0 and table[metric].min() < 0:
            axis.axhline(0, color="0.3", linewidth=0.8)
        else:
            axis.set_ylim(0, None)
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.set_ylabel(label or f"test {metric.upper()}")
        bare(axis)
    axes[-1, 0].set_xticks(range(len(groups)), [str(name) for name in groups])
    handles = [Line2D([], [], **_mark(n), label=str(variant)) for n, variant in enumerate(variants)]
    if reported is not None:
        handles.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="none", linestyle="", label="reported"))
    handles += axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_sampling(
    table: pd.DataFrame,
    metrics: str | Sequence[str] = "ndcg@50",
    lines: str = "backbone",
    panels: str | None = None,
    label: str = "share of clients in a round",
) -> Figure:
    """A metric against a share, of clients or of what else `label` says: a line for each backbone with a band over the
    range of seeds.

    Args:
        table: columns share, the one named by `lines`, and the metrics; a row for each seed.
        panels: a column with a panel for each of its values; without it, a panel for each metric.
        label: of the horizontal axis.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    names = list(dict.fromkeys(table[lines]))
    parts = [("", table)] if panels is None else list(table.groupby(panels, sort=False))
    shown = [(title, part, metric) for title, part in parts for metric in metrics]
    figure, axes = plt.subplots(
        1,
        len(shown),
        figsize=(1.6 + 3.2 * len(shown), 3),
        layout="constrained",
        squeeze=False,
        sharey=len(metrics) == 1,
    )
    for axis, (title, part, metric) in zip(axes[0], shown, strict=True):
        for n, name in enumerate(names):
            by_share = part[part[lines] == name].groupby("share")[metric]
            mean, colour = by_share.mean(), PALETTE[n % len(PALETTE)]
            axis.fill_between(mean.index, by_share.min(), by_share.max(), color=colour, alpha=0.18, linewidth=0)
            axis.plot(mean.index, mean, **_mark(n) | {"linestyle": DASHES[n % len(DASHES)]}, label=str(name))
        axis.set_xlabel(label)
        axis.set_title(str(title), fontsize=9)
        axis.set_ylim(0, None)
        bare(axis)
    for axis, (_, _, metric) in zip(axes[0], shown, strict=True):
        if axis is axes[0, 0] or len(metrics) > 1:
            axis.set_ylabel(f"test {metric.upper()}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_changes(table: pd.DataFrame, metric: str, reference: str, panels: str = "backbone") -> Figure:
    """One thing changed at a time: a row for each variant, how much more it has than the reference with the same seed;
    the mean, and every seed.

    Args:
        table: columns variant, seed, the one named by `panels`, and the metric; a row for each seed.
        reference: the variant that is nothing changed; the titles give its own mean.
    """
    titles, variants = list(dict.fromkeys(table[panels])), list(dict.fromkeys(table["variant"]))
    changed = [variant for variant in variants if variant != reference]
    figure, axes = plt.subplots(
        1,
        len(titles),
        figsize=(1.6 + 3 * len(titles), 0.9 + 0.28 * len(changed)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axis, title in zip(axes[0], titles, strict=True):
        of_panel = table[table[panels] == title]
        wide = of_panel.pivot_table(index="seed", columns="variant", values=metric, dropna=False).reindex(
            columns=variants
        )
        for y, variant in enumerate(changed):
            gain = wide[variant] - wide[reference]
            kept = gain.dropna()
            if len(kept):
                style = _mark(1)
                axis.plot([kept.min(), kept.max()], [y, y], color=style["color"], linewidth=1.2, alpha=0.6)
                axis.plot(kept, [y] * len(kept), ".", color=style["color"], markersize=4)
                axis.plot(kept.mean(), y, **style)
            if len(kept) < len(gain):
                lost = "diverged" if not len(kept) else f"{len(gain) - len(kept)} of {len(gain)} diverged"
                axis.text(0.98, y, lost, transform=axis.get_yaxis_transform(), fontsize=8, va="center", ha="right")
        axis.axvline(0, color="0.45", linestyle=DASHES[1], linewidth=1)
        axis.set_title(f"{title}, {reference}: {wide[reference].mean():.3f}", fontsize=9)
        axis.set_xlabel(f"test {metric.upper()}, difference")
        bare(axis)
    axes[0, 0].set_yticks(range(len(changed)), changed)
    axes[0, 0].set_ylim(len(changed) - 0.4, -0.6)
    return closed(figure)


def _of(table: pd.DataFrame, group: str, name: object, variant: object, metric: str) -> pd.Series:
    return table.loc[(table[group] == name) & (table["variant"] == variant), metric].dropna()


def _mark(n: int) -> dict[str, Any]:
    colour, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 6, "linestyle": ""}
