"""Rounds of federated training: `round.py` is the papers' algorithm, `backends` run its clients."""

from fedlab_mm.federation.base import Federation
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Federation"]
