"""Click prediction from a user's sequence of showings: transformers trained from scratch on devices, and MRFF's groups.

A backbone is one file; so is a placement of personal and group-level layers (`mrff.py`).
"""

from fedlab_mm.registry import import_members

import_members(__name__, __path__)

from fedlab_mm.sequential.base import ClickModel, click_model, count_click_parameters  # noqa: E402
from fedlab_mm.sequential.sequences import Sequences, Windows  # noqa: E402

__all__ = ["ClickModel", "Sequences", "Windows", "click_model", "count_click_parameters"]
