"""What is predicted, and how it is judged: a file for each task."""

from fedlab_mm.registry import import_members
from fedlab_mm.tasks.base import Judged, Task, federation_of, task_of

import_members(__name__, __path__)

__all__ = ["Judged", "Task", "federation_of", "task_of"]
