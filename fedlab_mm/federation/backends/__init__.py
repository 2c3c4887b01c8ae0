"""How clients are run: `loop` reads like the papers' pseudocode, `stacked` is fast; both give one result."""

from fedlab_mm.registry import import_members

import_members(__name__, __path__)
