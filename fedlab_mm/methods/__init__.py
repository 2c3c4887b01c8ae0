"""Where multimodal fusion happens, one class a file."""

from fedlab_mm.methods.base import Method
from fedlab_mm.methods.parts import Client
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Client", "Method"]
