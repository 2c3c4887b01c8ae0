"""Every figure and table of the papers that the data allow, made again from code: `fedlab-mm figures`."""

from fedlab_mm.figures.base import Exhibit, about, draw, drawn, make, state, table_of, write
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Exhibit", "about", "draw", "drawn", "make", "state", "table_of", "write"]
