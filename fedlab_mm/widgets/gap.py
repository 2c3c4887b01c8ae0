"""Every item's signals as points: what lies where, and which items they are."""

import html
import itertools
from collections.abc import Mapping

import ipywidgets
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from fedlab_mm import plotting
from fedlab_mm.errors import FedlabError
from fedlab_mm.plotting.base import PALETTE
from fedlab_mm.records import Dataset
from fedlab_mm.widgets.base import Live, picture

WIDTH, HEIGHT, MARGIN = 640, 440, 14
COLOURS = [to_hex(c) for c in PALETTE]
FORMS = ("circle", "square", "diamond", "triangle")
MOST = 1000  # items drawn


def gap_explorer(
    signals: Mapping[str, np.ndarray], data: Dataset, positions: Mapping[str, np.ndarray] | None = None, seed: int = 0
) -> Live:
    """The signals of all items in two dimensions, coloured by signal, by what was planted, or by popularity. The
    pointer names a point; an item chosen by number is marked in every signal, and told with its cover and with the
    distances between its signals in the space itself. Of a larger catalogue a thousand items are drawn.

    Args:
        signals: name -> float [I, D], as `Run.signals` gives them.
        positions: name -> float [I, 2]; by `plotting.project` with this seed if left out.

    Raises:
        FedlabError: signals or positions that are not those of the data's items.
    """
    if not signals:
        raise FedlabError("signals is empty: give at least one")
    for name, z_ID in signals.items():
        if np.ndim(z_ID) != 2 or len(z_ID) != data.n_items:
            raise FedlabError(f"signal '{name}' has shape {np.shape(z_ID)}, but {data.name} has {data.n_items} items")
    if positions is None:
        positions = plotting.project(signals, seed)
    shapes = {name: np.shape(at_I2) for name, at_I2 in positions.items()}
    if shapes != dict.fromkeys(signals, (data.n_items, 2)) or not all(np.isfinite(p).all() for p in positions.values()):
        raise FedlabError(
            f"positions must be finite, [{data.n_items}, 2] for each of {', '.join(signals)}; got {shapes}"
        )
    shown = np.arange(data.n_items)
    if data.n_items > MOST:
        shown = np.sort(np.random.default_rng(seed).choice(data.n_items, MOST, replace=False))
    note = "" if len(shown) == data.n_items else f"<div>{len(shown):,} of {data.n_items:,} items are drawn</div>"
    at = _to_screen({name: np.asarray(positions[name], float) for name in signals})
    kinds = _kinds(data)
    colour = ipywidgets.ToggleButtons(options=["signal", *kinds, "popularity"], description="colour by")
    colour.style.button_width = "auto"
    item = ipywidgets.BoundedIntText(value=int(data.popularity_I.argmax()), min=0, max=data.n_items - 1)
    item.description, item.tooltip = "item", f"from 0 to {data.n_items - 1}"
    drawn, told = ipywidgets.HTML(), ipywidgets.HTML()
    legend = points = ""

    def repaint(_: object = None) -> None:
        nonlocal legend, points
        legend = _legend_of_forms(list(signals), colour.value == "signal")
        if colour.value == "signal":
            paint = {name: [COLOURS[n % len(COLOURS)]] * data.n_items for n, name in enumerate(signals)}
        else:
            by_item = _by_popularity(data) if colour.value == "popularity" else _by_kind(kinds[colour.value])
            paint, legend = dict.fromkeys(signals, by_item[0]), legend + by_item[1]
        points = _points(at, paint, shown, data)
        mark()

    def mark(_: object = None) -> None:
        about = (
            f"Items in two dimensions: {', '.join(signals)}; coloured by {colour.value}; item {item.value} is marked"
        )
        drawn.value = legend + _svg(about, points + _marks(at, item.value)) + note
        told.value = _card(data, item.value, signals, kinds)

    colour.observe(repaint, "value")
    item.observe(mark, "value")
    repaint()
    box = ipywidgets.VBox([colour, drawn, item, told])
    return Live(box, plotting.plot_gap({data.name: positions}))


def _to_screen(positions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    every = np.concatenate(list(positions.values()))
    low, high = every.min(axis=0), every.max(axis=0)
    size = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    return {
        name: np.round(MARGIN + size * (at_I2 - low) / np.maximum(high - low, 1e-9), 1)
        for name, at_I2 in positions.items()
    }


def _kinds(data: Dataset) -> dict[str, list[str]]:
    """What was planted: the style, topic or cluster of each item, by the name that the items' table has for it."""
    kinds = {}
    for key, value_I in data.truth.items():
        name = key.removesuffix("_I")
        if key.endswith("_I") and np.issubdtype(value_I.dtype, np.integer) and len(np.unique(value_I)) <= len(COLOURS):
            kinds[name] = [str(v) for v in data.items.get(name, value_I)]
    return kinds


def _by_kind(kind_I: list[str]) -> tuple[list[str], str]:
    colour_of = dict(zip(sorted(set(kind_I)), COLOURS, strict=False))
    legend = _legend({kind: _form("circle", 7, 7, 5, colour) for kind, colour in colour_of.items()})
    return [colour_of[kind] for kind in kind_I], legend


def _by_popularity(data: Dataset) -> tuple[list[str], str]:
    """The rank decides the shade, for counts have a long tail."""
    count_I = data.popularity_I
    rank_I = np.searchsorted(np.sort(count_I), count_I, side="right") / len(count_I)
    shade_I = [to_hex(colour) for colour in colormaps["viridis"](1 - rank_I)]
    rising = np.argsort(count_I, kind="stable")
    some = rising[np.linspace(0, len(rising) - 1, 6).astype(int)]
    return shade_I, _legend({f"{count_I[i]} users": _form("circle", 7, 7, 5, shade_I[i]) for i in some})


def _legend(form_of: Mapping[str, str]) -> str:
    entries = "".join(
        f'<span><svg width="14" height="14" aria-hidden="true">{form}</svg> {html.escape(name)}</span>'
        for name, form in form_of.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12px;line-height:16px">{entries}</div>'


def _legend_of_forms(names: list[str], coloured: bool) -> str:
    fills = [COLOURS[n % len(COLOURS)] if coloured else "#666" for n in range(len(names))]
    return _legend({name: _form(_form_of(n), 7, 7, 5, fills[n]) for n, name in enumerate(names)})


def _points(at: Mapping[str, np.ndarray], paint: Mapping[str, list[str]], shown: np.ndarray, data: Dataset) -> str:
    titles, count_I = data.items["title"].tolist(), data.popularity_I
    parts = []
    for n, (name, at_I2) in enumerate(at.items()):
        for i in shown:
            about = html.escape(f"{name} of item {i}: {titles[i]} ({count_I[i]} users)")
            x, y = at_I2[i]
            parts.append(_form(_form_of(n), x, y, 3, paint[name][i], f"<title>{about}</title>"))
    return f'<g opacity="0.75">{"".join(parts)}</g>'


def _svg(about: str, inside: str) -> str:
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white" stroke="#bbb"/>'
    return (
        f'<svg role="img" aria-label="{html.escape(about)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="width:100%;max-width:{WIDTH}px">{ground}{inside}</svg>'
    )


def _form_of(n: int) -> str:
    return FORMS[n % len(FORMS)]


def _form(form: str, x: float, y: float, r: float, fill: str, inside: str = "") -> str:
    if form == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{r}" fill="{fill}">{inside}</circle>'
    if form == "square":
        side = 1.8 * r
        place = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side:.1f}" height="{side:.1f}"'
        return f'<rect {place} fill="{fill}">{inside}</rect>'
    far = 1.3 * r
    way = f"l{far} {far}l-{far} {far}l-{far} -{far}z" if form == "diamond" else f"l{far} {2 * far}h-{2 * far}z"
    return f'<path d="M{x} {y - far:.1f}{way}" fill="{fill}">{inside}</path>'


def _marks(at: Mapping[str, np.ndarray], item: int) -> str:
    """A ring around each of an item's points with its signal's name, and lines between them."""
    lines = "".join(
        f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" stroke="black" stroke-dasharray="4 3"/>'
        for a, b in itertools.combinations([at_I2[item] for at_I2 in at.values()], 2)
    )
    rings = []
    for name, at_I2 in at.items():
        x, y = at_I2[item]
        side, dx = ("end", -11) if x > 0.8 * WIDTH else ("start", 11)
        rings.append(
            f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="black" stroke-width="2.5"/>'
            f'<text x="{x + dx:.1f}" y="{y + 4:.1f}" text-anchor="{side}" font-size="13" font-weight="bold" '
            f'stroke="white" stroke-width="3" paint-order="stroke">{html.escape(name)}</text>'
        )
    return lines + "".join(rings)


def _card(data: Dataset, item: int, signals: Mapping[str, np.ndarray], kinds: Mapping[str, list[str]]) -> str:
    title = str(data.items["title"].iloc[item])
    cover = "" if data.covers is None else picture(data.covers[item], title, 96)
    rows = [f"<b>{html.escape(title)}</b>", f"item {item}, in {data.popularity_I[item]} users' training sets"]
    if kinds:
        rows.append(html.escape(", ".join(f"{name} {of_I[item]}" for name, of_I in kinds.items())))
    for a, b in itertools.combinations(signals, 2):
        far = float(np.linalg.norm(np.asarray(signals[a][item], float) - np.asarray(signals[b][item], float)))
        rows.append(html.escape(f"{a} to {b}, in the space itself: {far:.2f}"))
    return f'<div role="status" style="display:flex;gap:12px">{cover}<div>{"<br>".join(rows)}</div></div>'
