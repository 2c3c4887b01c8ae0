"""How many threads the products of a round use: chosen by the clock, not inherited.

A second thread of a small product saves a quarter of the time where a core is free for it. Where none is, the first
waits for a thread that cannot run, spins meanwhile, and a round takes up to fifty times as long: beside a second
notebook, on a JupyterHub, in a container with fewer cores than its machine. Nothing tells beforehand. So work that
comes again and again (`paced`) is timed. It begins with one thread, is tried with more now and then, and keeps what was
faster. A round that grows slow falls back to one thread before it ends. A try that failed is paid back: the next one
comes after fifty times as much regular work as it lost.

With another number of threads the last bit of a product may come out otherwise. Who wants the same bits twice sets the
number: FEDLAB_MM_THREADS=1. What a user sets wins: that variable, OMP_NUM_THREADS or MKL_NUM_THREADS, or
torch.set_num_threads with a number that is not torch's own. Outside of paced work torch keeps what it had.
"""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch

from fedlab_mm.errors import FedlabError

VARIABLE = "FEDLAB_MM_THREADS"
OF_TORCH = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # what torch itself reads when it is loaded

PAID_BACK = 50  # seconds of regular work for each second that a try lost
BETTER = 0.97  # of the usual time: what a try must stay below to be kept
SLOW = 1.8  # times the usual: where a round falls back to one thread
GRACE = 0.001  # seconds; no round falls back over less
LOOK = 0.1  # seconds for which other processes are watched, before work that is done once
SHORTEST = 0.08  # of the whole: a lap that a try can begin with


@dataclass
class Course:
    """How a piece of work went with some number of threads: after how much of it how many seconds had passed."""

    sizes: list[float] = field(default_factory=lambda: [0.0])
    seconds: list[float] = field(default_factory=lambda: [0.0])

    def lap(self, size: float, seconds: float) -> None:
        self.sizes.append(self.sizes[-1] + size)
        self.seconds.append(seconds)

    def when(self, size: float) -> float:
        """When it had done so much; beyond its end in proportion."""
        if size >= self.sizes[-1]:
            return self.seconds[-1] * (size / self.sizes[-1] if self.sizes[-1] else 1.0)
        n = max(1, bisect_left(self.sizes, size))
        (low, high), (early, late) = self.sizes[n - 1 : n + 1], self.seconds[n - 1 : n + 1]
        return early + (late - early) * ((size - low) / (high - low) if high > low else 1.0)

    def short_lap(self) -> int | None:
        """The number of a lap that is short, but not too short to tell anything; None where there is none. What comes
        after the last lap (a server's part) is like no other and does not count."""
        whole = self.seconds[-1]
        took = [(late - early, n) for n, (early, late) in enumerate(pairwise(self.seconds[:-1]))]
        short = [(seconds, n) for seconds, n in took if SHORTEST * whole <= seconds <= whole / 2]
        return min(short)[1] if short else None


class Pace:
    """The choice for one kind of work, from one time to the next.

    A try costs little where it fails: first a single lap is done with another number of threads, and only where that
    was faster, the whole.

    Attributes:
        rung: of the ladder, with the number of threads that was the fastest; usual: how the work last went with it.
        step: to the rung that is tried next; debt: seconds of regular work until then.

    Args:
        most: how many threads there may be.
    """

    def __init__(self, most: int):
        self.ladder = [n for n in (2**k for k in range(most.bit_length())) if n < most] + [most]
        self.rung, self.step = 0, 1
        self.usual: Course | None = None
        self.debt = 0.0
        self.promising = False  # the lap that was tried last was faster
        self.mode = "usual"  # of this time: "usual", "lap", "whole", or "given up"
        self.at = 0  # in mode "lap": which one
        self.in_it, self.lost = False, 0.0  # it has begun; what it cost

    @property
    def n(self) -> int:
        return self.ladder[self.rung]

    @property
    def other(self) -> int:
        return self.ladder[self.rung + self.step]

    def begin(self) -> int:
        """How many threads to begin with, this time."""
        self.mode, self.in_it, self.lost = "usual", False, 0.0
        if self.usual is None or self.debt > 0 or len(self.ladder) == 1:
            return self.n
        short = None if self.promising else self.usual.short_lap()
        self.promising = False
        if short is None:
            self.mode = "whole"
            return self.other
        self.mode, self.at, self.in_it = "lap", short, short == 0
        return self.other if self.in_it else self.n

    def lap(self, course: Course) -> int | None:
        """After a lap: how many threads the next one gets; None for as many as this one had."""
        if self.usual is None or self.mode == "given up":
            return None
        before, size = course.sizes[-2:]
        if self.in_it:
            self.in_it = False
            took, usual = course.seconds[-1] - course.seconds[-2], self.usual.when(size) - self.usual.when(before)
            self.promising, self.lost = took < BETTER * usual, took - usual
            self.debt = 0.0
            if not self.promising:
                self._pay(self.lost, usual)
            return self.n
        if self.mode == "lap" and len(course.sizes) - 1 == self.at:
            self.in_it = True
            return self.other
        slow = course.seconds[-1] - self.lost > SLOW * self.usual.when(size) + GRACE
        if slow and (self.rung or self.mode == "whole"):
            if self.mode != "whole":
                self.rung = 0  # the machine has changed
            self.mode = "given up"
            self.lost = course.seconds[-1] - self.usual.when(size)
            return 1
        return None

    def end(self, course: Course) -> None:
        """Learn from how it went."""
        seconds, usual = course.seconds[-1], 0.0 if self.usual is None else self.usual.when(course.sizes[-1])
        if self.mode == "given up":
            self._pay(self.lost, usual)
            if self.rung == 0:
                self.usual = None
        elif self.mode == "whole" and seconds < BETTER * usual:
            self.rung, self.usual = self.rung + self.step, course
            if not 0 <= self.rung + self.step < len(self.ladder):
                self._pay(usual - seconds, usual)
        elif self.mode == "whole":
            self._pay(seconds - usual, usual)
        elif self.mode == "lap" and (self.in_it or len(course.sizes) - 2 <= self.at):
            self.promising = True  # there were fewer laps than usual, so that one was not told
        elif self.mode == "usual":
            self.debt -= seconds
            if self.rung and usual and seconds > SLOW * usual + GRACE:  # in one lap: nothing could be done about it
                self.step, self.debt, self.promising = -1, 0.0, True
            self.usual = course

    def _pay(self, lost: float, usual: float) -> None:
        """Nothing is to be had this way: the next try is the other way, and later."""
        self.debt = PAID_BACK * max(lost, 0.05 * usual)
        if 0 <= self.rung - self.step < len(self.ladder):
            self.step = -self.step
        if not 0 <= self.rung + self.step < len(self.ladder):
            self.step = 1 if self.rung == 0 else -1


class _Now(threading.local):
    """What this Python thread is timing, innermost last."""

    def __init__(self) -> None:
        self.units: list[_Unit] = []


class _Unit:
    """One time of a piece of work."""

    def __init__(self, pace: Pace):
        self.pace, self.course = pace, Course()
        self.start = time.perf_counter()

    def lap(self, size: float) -> None:
        self.course.lap(size, time.perf_counter() - self.start)
        n = self.pace.lap(self.course)
        if n is not None:
            torch.set_num_threads(n)


_NOW = _Now()
_PACES: dict[Hashable, Pace] = {}
_LEFT: list[int] = []  # what torch had before paced work, and has again after it


@contextmanager
def paced(*key: Hashable) -> Iterator[None]:
    """Work that comes again and again, as much of it each time.

    Args:
        key: what tells this work from other work; what was learnt of a key holds for the whole process.

    Paced work within paced work is timed apart.

    Raises:
        FedlabError: $FEDLAB_MM_THREADS is not a number of threads.
    """
    before = torch.get_num_threads()
    n = fixed()
    if n is not None:
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)
        return
    if not _NOW.units:
        _LEFT[:] = [before]
    pace = _PACES.setdefault(key, Pace(most()))
    torch.set_num_threads(pace.begin())
    unit = _Unit(pace)
    _NOW.units.append(unit)
    whole = False
    try:
        yield
        whole = True
    finally:
        _NOW.units.pop()
        torch.set_num_threads(before)
        seconds = time.perf_counter() - unit.start
        if _NOW.units:
            _NOW.units[-1].start += seconds
        if whole:  # an error's time says nothing
            if len(unit.course.sizes) == 1:
                unit.course.lap(1.0, seconds)
            else:
                unit.course.lap(0.0, seconds)
            pace.end(unit.course)


def lap(size: float = 1.0) -> None:
    """So much of the paced work that is on is done: in chunks, clients or whatever grows with their time."""
    if _NOW.units:
        _NOW.units[-1].lap(size)


def fixed() -> int | None:
    """The number of threads that the user has set; None where it is ours to choose."""
    text = os.environ.get(VARIABLE)
    if text is not None:
        if not text.isdecimal() or int(text) < 1:
            raise FedlabError(f"{VARIABLE}={text}: must be a whole number of threads, 1 or more; or leave it out")
        return int(text)
    now = torch.get_num_threads()
    if any(os.environ.get(name) for name in OF_TORCH):
        return now
    if _NOW.units:  # our own doing
        return None
    return now if now not in (_LEFT or _usual()) or now == 1 else None


@cache
def _usual() -> list[int]:
    """What torch takes where nobody asks: a thread for each core of the machine, or of this process."""
    import psutil

    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores()
    return [os.cpu_count() or 1, psutil.cpu_count(logical=False) or 1, mine, cores()]


@cache
def cores() -> int:
    """How many cores this process may use, by its affinity and its container's limits."""
    from joblib import cpu_count

    return int(cpu_count())


def most() -> int:
    """How many threads there is room for; within paced work, as many as there were before it."""
    return max(1, min(_LEFT[0] if _NOW.units else torch.get_num_threads(), cores()))


@contextmanager
def single() -> Iterator[None]:
    """One thread for whatever runs meanwhile, in numpy, SciPy and scikit-learn too. For small work, and for sums whose
    last bit depends on how they are shared out."""
    with _all_with(1):
        yield


@contextmanager
def spare() -> Iterator[None]:
    """As many threads as cores are idle now, in numpy, SciPy and scikit-learn too. For work of seconds that is done
    once, so that there is nothing to learn from."""
    n = fixed()
    if n is None:
        import psutil

        idle = 1 - psutil.cpu_percent(interval=LOOK) / 100
        n = max(1, min(most(), round(idle * (os.cpu_count() or 1))))
    with _all_with(n):
        yield


@contextmanager
def _all_with(n: int) -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(limits=n):
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)
