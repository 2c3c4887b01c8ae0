"""A widget and the picture that stands for it where there is no kernel."""

import base64
import html
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from PIL import Image


class Live:
    """A widget that is a picture elsewhere: JupyterLab shows the widget, a page without a kernel (GitHub, nbviewer, a
    notebook just opened) the picture, which is stored with the notebook.

    Args:
        box: the widget, whole; figure: what it shows at first.
    """

    def __init__(self, box: ipywidgets.Widget, figure: Figure):
        self.box, self.figure = box, figure

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        shown = self.box._repr_mimebundle_(**options)
        bundle = dict(shown[0] if isinstance(shown, tuple) else shown)
        return {**bundle, "image/png": base64.b64encode(png(self.figure)).decode()}


def png(figure: Figure) -> bytes:
    target = BytesIO()
    figure.savefig(target, format="png", dpi=100)
    return target.getvalue()


def redrawn(draw: Callable[[], Figure], controls: Sequence[ipywidgets.Widget]) -> ipywidgets.HTML:
    """A place for a picture that is drawn anew whenever the value of a control changes."""
    place = ipywidgets.HTML()

    def show(_: object = None) -> None:
        figure = draw()
        chosen = [f"{control.description} {getattr(control, 'label', control.value)}" for control in controls]
        place.value = _image(png(figure), "; ".join([described(figure), *chosen]), int(100 * figure.get_figwidth()))

    for control in controls:
        control.observe(show, "value")
    show()
    return place


def described(figure: Figure) -> str:
    """What a picture shows, for whoever cannot see it: the titles and axes of its panels.

    >>> figure = Figure()
    >>> _ = figure.add_subplot(title="KU", xlabel="round", ylabel="loss")
    >>> described(figure)
    'KU: loss against round'
    """
    told = []
    for axis in figure.axes:
        axes = " against ".join(name for name in (axis.get_ylabel(), axis.get_xlabel()) if name)
        told.append(": ".join(part for part in (axis.get_title(), axes) if part))
    return "; ".join(dict.fromkeys(part for part in told if part))


def picture(pixels: np.ndarray, alt: str, width: int = 72) -> str:
    """A cover as HTML, its title for whoever cannot see it.

    >>> picture(np.zeros((2, 2, 3), dtype=np.uint8), "<b>")[:10], 'alt="&lt;b&gt;"' in picture(
    ...     np.zeros((2, 2, 3), dtype=np.uint8), "<b>")
    ('<img src="', True)
    """
    target = BytesIO()
    Image.fromarray(pixels).save(target, format="PNG")
    return _image(target.getvalue(), alt, width)


def _image(content: bytes, alt: str, width: int) -> str:
    data = base64.b64encode(content).decode()
    about = f'alt="{html.escape(alt)}" width="{width}" style="max-width:100%"'
    return f'<img src="data:image/png;base64,{data}" {about}>'
