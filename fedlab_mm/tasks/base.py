"""What a task is to a recipe: which families its parts are of, and the settings that all of them read."""

from typing import ClassVar

from fedlab_mm.settings import Settings


class Task:
    """A task. A subclass registers as "task".

    Class attributes:
        prefix: before the names of its families: "" for "backbone", "click " for "click backbone".
        what: its methods in words, for messages.
        mechanism: the settings of privacy that its clients know.
        Params: the settings that all of its methods and backbones read.
    """

    prefix: ClassVar[str]
    what: ClassVar[str]
    mechanism: ClassVar[type[Settings]] = Settings
    Params: ClassVar[type[Settings]] = Settings
