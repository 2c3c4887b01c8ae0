"""ID-based federated recommenders, one class a file: how a client scores, what it minimises, what stays private."""

from fedlab_mm.backbones.base import Backbone, LinearBackbone
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = ["Backbone", "LinearBackbone"]
