"""Signals of the same items in one space: drawn in two dimensions, and how far apart they lie in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedlab_mm.errors import FedlabError, MissingExtra
from fedlab_mm.plotting.base import DASHES, MARKERS, PALETTE, bare, closed
from fedlab_mm.threads import single


def project(signals: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Every vector of every signal in two dimensions, by one UMAP of them all (umap-learn with its defaults).

    UMAP keeps neighbours together and leaves all else to chance: its axes have no unit, and one seed gives different
    pictures on different machines. What can be measured is in `fl.modality_gap`.

    Args:
        signals: name -> float [I, D], as `Run.signals` gives them.

    Returns:
        name -> float [I, 2].

    Raises:
        FedlabError: no signal, unequal shapes, fewer than ten vectors in all, values that are not finite.
    """
    shapes = {name: np.shape(z) for name, z in signals.items()}
    if len(set(shapes.values())) != 1 or any(len(s) != 2 for s in shapes.values()):
        raise FedlabError(f"signals must be arrays of one shape [items, width]; got {shapes or 'none'}")
    x = np.concatenate([np.asarray(z, dtype=np.float32) for z in signals.values()])
    if len(x) < 10:
        raise FedlabError(f"{len(x)} vectors are too few for a UMAP: ten at least")
    if not np.isfinite(x).all():
        raise FedlabError("signals have values that are not finite")
    try:
        from umap import UMAP  # here, for its import alone takes seconds
    except ModuleNotFoundError:
        raise MissingExtra("a UMAP", "umap-learn", "umap") from None

    with single():  # numba sets the threads of whatever else uses OpenMP, torch included
        flat = UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed, n_jobs=1).fit_transform(x)
    return dict(zip(signals, np.split(flat, len(signals)), strict=True))


def plot_gap(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """A panel for each projection: a dot for each item, in colour and form of its signal.

    Args:
        panels: title -> what `project` gave.
    """
    names = list(dict.fromkeys(name for positions in panels.values() for name in positions))
    width = len(panels)
    figure, axes = plt.subplots(1, width, figsize=(2.7 * width + 1.1, 2.9), layout="constrained", squeeze=False)
    for axis, (title, positions) in zip(axes[0], panels.items(), strict=True):
        for name, at_I2 in positions.items():
            axis.plot(*at_I2.T, **_dot(names.index(name)), alpha=0.55)
        axis.set(xticks=[], yticks=[], xlabel="UMAP 1 (no unit)")
        axis.set_title(title, fontsize=9)
    axes[0, 0].set_ylabel("UMAP 2 (no unit)")
    handles = [Line2D([], [], **_dot(n) | {"markersize": 6}, label=name) for n, name in enumerate(names)]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_gap_rounds(
    tables: Mapping[int, pd.DataFrame], columns: Sequence[str] = ("distance", "spread", "gap")
) -> Figure:
    """How far apart the signals lie over the rounds: a panel for each column, a line for each pair.

    Args:
        tables: round -> what `fl.modality_gap` gave; round 0 for what was there before training.
    """
    rounds = list(tables)
    figure, axes = plt.subplots(
        1, len(columns), figsize=(2.6 * len(columns) + 1.4, 2.8), layout="constrained", squeeze=False
    )
    for axis, column in zip(axes[0], columns, strict=True):
        for n, pair in enumerate(tables[rounds[0]].index):
            values = [tables[t].loc[pair, column] for t in rounds]
            axis.plot(rounds, values, **_line(n), markevery=max(1, len(rounds) // 8), label=str(pair))
        axis.set_title(column, fontsize=9)
        axis.set_xlabel("round")
        axis.set_ylim(0, 1.1 * max(1e-9, *(table[column].max() for table in tables.values())))
        axis.xaxis.get_major_locator().set_params(integer=True)
        bare(axis)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def plot_gap_users(users: pd.DataFrame, lines: pd.DataFrame | None = None) -> Figure:
    """How a figure is spread over users: a histogram for each column.

    Args:
        users: a row for each user, a column for each panel.
        lines: name -> the same columns, drawn as upright lines.
    """
    figure, axes = plt.subplots(
        1, users.shape[1], figsize=(2.9 * users.shape[1] + 2, 2.7), layout="constrained", squeeze=False
    )
    for axis, column in zip(axes[0], users, strict=True):
        axis.hist(users[column], bins=15, color=PALETTE[0], alpha=0.6, label="users")
        _upright(axis, lines, str(column))
        axis.set_xlabel(str(column))
        bare(axis)
    axes[0, 0].set_ylabel("users")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    return closed(figure)


def _upright(axis: Axes, lines: pd.DataFrame | None, column: str) -> None:
    for n, (name, row) in enumerate((lines if lines is not None else pd.DataFrame()).iterrows()):
        colour = PALETTE[(n + 1) % len(PALETTE)]
        axis.axvline(row[column], color=colour, linestyle=DASHES[n % len(DASHES)], linewidth=2, label=str(name))


def _dot(n: int) -> dict[str, Any]:
    colour, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 2.5, "markeredgewidth": 0, "linestyle": ""}


def _line(n: int) -> dict[str, Any]:
    return _dot(n) | {"linestyle": DASHES[n % len(DASHES)], "markersize": 4}
