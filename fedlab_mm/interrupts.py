"""Ctrl-C between two rounds: what was trained so far is whole, and is kept."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C while training; nothing that was finished is lost.

    Attributes:
        run: the run up to the last whole round, to save or to go on from; None where none was under way.
        table: what `compare` has finished; None elsewhere.
    """

    def __init__(self, run: Any = None, table: Any = None):
        self.run, self.table = run, table
        told = "interrupted"
        if run is not None:
            told += (
                f" after round {run.rounds_done} of {run.recipe.rounds}: `run` of this error (in a notebook "
                "sys.last_value.run) is the run so far, and train(recipe, data, resume=run) goes on"
            )
        super().__init__(told)


@contextmanager
def patient() -> Iterator[Callable[[], bool]]:
    """Within it a first Ctrl-C is only noted, for a round that is cut off would leave half of its state; whoever trains
    asks between rounds. A second one ends at once, as always.

    Elsewhere than in the main thread, and where Ctrl-C means something else already, nothing is changed.
    """
    noted = False

    def note(*_: Any) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(RuntimeError, OSError):  # while a bar is being written, nothing else can be
            print("\nstopping after this round; Ctrl-C again stops at once", file=sys.stderr)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
