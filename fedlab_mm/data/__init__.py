"""One file per dataset, each a class with `load`, registered by name; `build` checks what every one of them returns."""

from fedlab_mm.data.build import build
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["build"]
