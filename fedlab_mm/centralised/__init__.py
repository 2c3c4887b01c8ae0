"""Recommenders that see all interactions at once: the simple ones that every table needs, one class a file."""

from fedlab_mm.centralised.base import Baseline
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Baseline"]
