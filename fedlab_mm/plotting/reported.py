"""Counts beside what was reported."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fedlab_mm.plotting.base import PALETTE, bare, closed

NAMES = {"fedavg": "FedAvg", "fcf": "FCF", "fedncf": "FedNCF", "pfedrec": "PFedRec", "fedrap": "FedRAP"}


def plot_counts(table: pd.DataFrame) -> Figure:
    """Our counts against reported ones: on the line where they agree, those that do not by name.

    Args:
        table: columns dataset, backbone, method, ours, reported, agrees.
    """
    figure, axis = plt.subplots(figsize=(6, 4.6), layout="constrained")
    span = [table[["ours", "reported"]].min().min() * 0.7, table[["ours", "reported"]].max().max() * 1.5]
    axis.plot(span, span, color="0.7", linewidth=1)
    for mark, colour, marker, name in ((True, PALETTE[0], "o", "the same"), (False, PALETTE[1], "X", "another")):
        part = table[table["agrees"] == mark]
        axis.plot(part["reported"], part["ours"], marker, color=colour, label=f"{name}: {len(part)} cells")
    for (x, y), rows in table[~table["agrees"]].groupby(["reported", "ours"]):
        names = [f"{NAMES[b]} + {m}, {d}" for b, m, d in rows[["backbone", "method", "dataset"]].to_numpy()]
        right = x < span[1] / 20  # there is room
        axis.annotate(
            "\n".join(names), (x, y), xytext=(6 if right else -6, 2), ha="left" if right else "right",
            textcoords="offset points", fontsize=7, va="center",
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=span, ylim=span)
    axis.set_xlabel("parameters, reported")
    axis.set_ylabel("parameters, counted")
    axis.legend(frameon=False, fontsize=8)
    bare(axis)
    return closed(figure)
