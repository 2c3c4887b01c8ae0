"""Items as one meets them: covers, titles."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlab_mm.errors import FedlabError
from fedlab_mm.experiments.run import Run
from fedlab_mm.plotting.base import closed
from fedlab_mm.records import Dataset


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
    return closed(figure)


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


def plot_recommendations(runs: Run | Mapping[str, Run], user: int, k: int = 8) -> Figure:
    """What a user has (the most recent items), what it is recommended, and the item that was held out for the test.

    Args:
        runs: a run, or several by name, a row for each.
    """
    named = {"recommended": runs} if isinstance(runs, Run) else dict(runs)
    data = next(iter(named.values())).data
    target = data.targets("test")[user].tolist()
    recommended = {name: run.recommend(user, k)["item"].tolist() for name, run in named.items()}
    return plot_items(data, {"has": _history(data, user, k), **recommended, "held out": target}, per_row=k)


def plot_titles(runs: Run | Mapping[str, Run], user: int, k: int = 8) -> Figure:
    """What `plot_recommendations` shows, in words, where a dataset came without covers."""
    named = {"is recommended": runs} if isinstance(runs, Run) else dict(runs)
    data = next(iter(named.values())).data
    columns = {"has": _history(data, user, k)}
    columns |= {name: run.recommend(user, k)["item"].tolist() for name, run in named.items()}
    figure, axis = plt.subplots(figsize=(4 * len(columns), 0.25 * k + 0.6), layout="constrained")
    axis.set_axis_off()
    for n, (name, items) in enumerate(columns.items()):
        titles = [textwrap.shorten(str(data.items["title"].iloc[i]), 48, placeholder=" …") for i in items]
        axis.text(n / len(columns), 1, name, va="top", weight="bold", fontsize=9)
        axis.text(n / len(columns), 0.9, "\n".join(titles), va="top", fontsize=8, parse_math=False)
    return closed(figure)


def _history(data: Dataset, user: int, k: int) -> list[int]:
    log = data.interactions
    return log[(log["user"] == user) & (log["split"] == "train")]["item"].tolist()[-k:]


def _rows_of(items: Sequence[int] | Mapping[str, Sequence[int]], per_row: int) -> list[tuple[str, list[int]]]:
    if isinstance(items, Mapping):
        return [(name, list(row)[:per_row]) for name, row in items.items()]
    flat = list(items)
    return [("", flat[start : start + per_row]) for start in range(0, len(flat), per_row)]
