"""Rounds of federated training: `loop` reads like the papers' pseudocode, `stacked` is fast; both give one result."""

from fedlab_mm.registry import import_members
from fedlab_mm.simulation.engine import Engine

import_members(__name__, __path__)

__all__ = ["Engine"]
