"""One user of a trained federation: what it has, what it is recommended, and why."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from fedlab_mm import plotting
from fedlab_mm.errors import FedlabError
from fedlab_mm.experiments.run import Run
from fedlab_mm.records import Dataset
from fedlab_mm.widgets.base import Live, picture

MOST = 8  # items in a row


def explore_user(runs: Run | Mapping[str, Run], user: int = 0) -> Live:
    """A user's history, its router's weights, and what it is recommended, with covers; beside it, by other runs, say
    with a modality left out, what comes and what goes.

    Args:
        runs: a run, or several by name, the first of which is the one that the others are compared with.
        user: to begin with.

    Raises:
        FedlabError: no run, runs on different data, no such user.
    """
    named = {"": runs} if isinstance(runs, Run) else dict(runs)
    if not named:
        raise FedlabError("runs is empty: give at least one")
    first = next(iter(named.values()))
    data = first.data
    if any(run.data.fingerprint != data.fingerprint for run in named.values()):
        raise FedlabError("the runs are on different data: a user of one is not a user of the other")
    if not 0 <= user < data.n_users:
        raise FedlabError(f"user={user}: {data.name} has users 0 to {data.n_users - 1}")
    choice = ipywidgets.BoundedIntText(value=user, min=0, max=data.n_users - 1, description="user")
    choice.tooltip = f"from 0 to {data.n_users - 1}"
    surprise = ipywidgets.Button(description="another one", tooltip="a user drawn at random")
    told = ipywidgets.HTML()
    rng = np.random.default_rng(user)

    def show(_: object = None) -> None:
        told.value = _page(named, choice.value)

    def draw_another(_: object) -> None:
        choice.value = int(rng.integers(data.n_users))

    choice.observe(show, "value")
    surprise.on_click(draw_another)
    show()
    box = ipywidgets.VBox([ipywidgets.HBox([choice, surprise]), told])
    return Live(box, _still(runs if isinstance(runs, Run) else named, user))


def _still(runs: Run | Mapping[str, Run], user: int) -> Figure:
    data = runs.data if isinstance(runs, Run) else next(iter(runs.values())).data
    draw = plotting.plot_titles if data.covers is None else plotting.plot_recommendations
    return draw(runs, user)


def _page(named: Mapping[str, Run], user: int) -> str:
    (name, first), *others = named.items()
    data = first.data
    log = data.interactions
    history = log[(log["user"] == user) & (log["split"] == "train")]["item"].tolist()[-MOST:]
    known = _best(first, user)
    target = int(data.target_U("test")[user])
    rows = [
        _row(data, f"has ({data.train.lengths[user]} items)", history),
        _row(data, f"is recommended {_by(name)}{_place(first, user, target)}", known),
    ]
    for other, run in others:
        chosen = _best(run, user)
        new = [item for item in chosen if item not in known]
        underlined = " (underlined)" if new else ""
        title = f"{other}: {len(new)} of {len(chosen)} are others{underlined}{_place(run, user, target)}"
        rows.append(_row(data, title, chosen, marked=new))
    if target >= 0:
        rows.append(_row(data, "held out", [target]))
    return _weights(first, user) + "".join(rows)


def _by(name: str) -> str:
    return f"({name})" if name else ""


def _best(run: Run, user: int) -> list[int]:
    unseen = run.data.n_items - int(run.data.train.lengths[user])
    return run.recommend(user, min(MOST, unseen))["item"].tolist()


def _place(run: Run, user: int, target: int) -> str:
    """Where the held-out item comes among the items that the user does not hold."""
    if target < 0:
        return ""
    scores_I = run.scores_UI[user].clone()
    scores_I[run.data.train[user]] = -np.inf
    return f"; the item held out comes at {1 + int((scores_I > scores_I[target]).sum())}"


def _row(data: Dataset, title: str, items: Sequence[int], marked: Sequence[int] = ()) -> str:
    cells = []
    for item in items:
        name = str(data.items["title"].iloc[item])
        cover = "" if data.covers is None else picture(data.covers[item], name) + "<br>"
        mark = "border-bottom:3px solid #0173b2" if item in marked else ""
        cells.append(
            f'<div style="width:84px;margin:2px;font-size:11px;line-height:1.2;{mark}">{cover}{html.escape(name)}</div>'
        )
    head = f'<p style="margin:6px 0 0"><b>{html.escape(title)}</b></p>'
    return f'{head}<div style="display:flex;flex-wrap:wrap">{"".join(cells)}</div>'


def _weights(run: Run, user: int) -> str:
    if run.model.router_weights() is None:
        return ""
    bars = []
    for view, w in run.router_weights().loc[user].items():
        bar = f'<div style="background:#0173b2;height:10px;width:{200 * w:.0f}px"></div>'
        bars.append(f"<tr><td>{html.escape(str(view))}</td><td>{bar}</td><td>{w:.2f}</td></tr>")
    return f"<p style='margin:6px 0 0'><b>its router</b></p><table>{''.join(bars)}</table>"
