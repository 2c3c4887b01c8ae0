"""One file per dataset, each a class with `load`, registered by name; `prepare` makes the choices, `build` checks what
comes of them."""

from fedlab_mm.data.build import build
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

from fedlab_mm.data.preparation import Preparation, Raw  # noqa: E402
from fedlab_mm.data.prepare import prepare  # noqa: E402
from fedlab_mm.data.source import Source  # noqa: E402

__all__ = ["Preparation", "Raw", "Source", "build", "prepare"]
