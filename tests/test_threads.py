"""Threads by the clock: a pace with a clock of our own, what a user sets, and that results do not depend on it."""

import os
import subprocess
import sys

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import threads
from fedlab_mm.registry import names
from fedlab_mm.threads import Course, Pace, lap, paced, single, spare
from tests.conftest import engine_of


def work(pace: Pace, seconds_of, laps: int = 10) -> tuple[int, float]:
    """One time of a piece of work, whose whole takes `seconds_of(n)` with n threads: how many it ended with, and how
    long it took."""
    n = pace.begin()
    course, passed = Course(), 0.0
    for _ in range(laps):
        passed += seconds_of(n) / laps
        course.lap(1.0, passed)
        n = pace.lap(course) or n
    course.lap(0.0, passed)
    pace.end(course)
    return n, passed


IDLE = {1: 0.042, 2: 0.025}.__getitem__
BESIDE_TWO = {1: 0.046, 2: 2.318}.__getitem__


def test_more_threads_are_kept_where_they_are_faster():
    pace = Pace(2)
    took = [work(pace, IDLE) for _ in range(500)]
    assert [n for n, _ in took[:4]] == [1, 1, 2, 2], "one thread, one lap with two, all of it with two"
    assert sum(seconds for _, seconds in took) < 1.03 * 500 * 0.025


def test_a_try_that_failed_is_paid_back():
    pace = Pace(2)
    took = [seconds for _, seconds in (work(pace, BESIDE_TWO) for _ in range(3000))]
    tries = [n for n, seconds in enumerate(took) if seconds > 0.1]
    assert tries[0] == 1 and len(tries) > 3, "it is tried again"
    assert max(took) < 0.3, "a try is a single lap where that fails"
    assert sum(took) < 1.03 * 3000 * 0.046


def test_a_round_that_grows_slow_falls_back_before_it_ends():
    pace = Pace(2)
    for _ in range(5):
        work(pace, IDLE)
    assert pace.n == 2
    n, seconds = work(pace, BESIDE_TWO)
    assert n == 1 and seconds < 0.3 and pace.n == 1
    assert [work(pace, BESIDE_TWO) for _ in range(3)] == [(1, pytest.approx(0.046))] * 3


def test_work_of_one_lap_falls_back_at_the_next_time():
    pace = Pace(2)
    for _ in range(5):
        work(pace, IDLE, laps=1)
    assert pace.n == 2
    work(pace, BESIDE_TWO, laps=1)
    assert work(pace, BESIDE_TWO, laps=1) == (1, pytest.approx(0.046)) and pace.n == 1


def test_a_machine_that_is_slower_for_all_numbers_of_threads_keeps_what_is_best():
    pace = Pace(2)
    for _ in range(5):
        work(pace, IDLE)
    for _ in range(200):
        work(pace, lambda n: 5 * IDLE(n))
    assert pace.n == 2


def test_threads_come_back_once_the_others_are_gone():
    pace = Pace(2)
    for _ in range(50):
        work(pace, BESIDE_TWO)
    waited = 0.0
    while pace.n == 1:
        waited += work(pace, IDLE)[1]
    assert waited < 15


@pytest.mark.parametrize("best", [1, 2, 4, 8, 12])
def test_the_best_of_many_is_climbed_to(best):
    pace = Pace(12)
    assert pace.ladder == [1, 2, 4, 8, 12]
    for _ in range(100):
        work(pace, lambda n: abs(n - best) + 1.0)
    assert pace.n == best


def test_more_work_takes_more_time():
    course = Course()
    course.lap(2.0, 1.0)
    course.lap(2.0, 3.0)
    assert [course.when(size) for size in (0, 1, 2, 3, 4, 8)] == [0.0, 0.5, 1.0, 2.0, 3.0, 6.0]


@pytest.fixture
def ours(monkeypatch):
    """A process in which the number of threads is ours to choose, of two."""
    for name in (threads.VARIABLE, *threads.OF_TORCH):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_usual", lambda: [2])
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "_PACES", {})
    monkeypatch.setattr(threads, "_LEFT", [])
    yield monkeypatch
    torch.set_num_threads(before)


def threads_within(*key) -> int:
    with paced(*key):
        return torch.get_num_threads()


def test_torch_has_its_threads_back_afterwards(ours):
    assert threads_within("a") == 1 and torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), paced("a"):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
    assert threads_within("a") == 2, "an error's time is not counted; this is the first try of two, in a single lap"


def test_work_within_work_is_timed_apart(ours):
    with paced("outer"):
        with paced("inner"):
            assert len(threads._NOW.units) == 2
        lap()
    assert threads._PACES["inner",].ladder == [1, 2], "not held to the one thread that the outer work began with"
    outer, inner = (threads._PACES[key,].usual for key in ("outer", "inner"))
    assert outer.sizes == [0, 1, 1] and inner.sizes == [0, 1]
    assert not threads._NOW.units


def test_what_a_user_sets_wins(ours):
    ours.setenv("OMP_NUM_THREADS", "2")
    assert [threads_within("a") for _ in range(3)] == [2, 2, 2]
    ours.setenv(threads.VARIABLE, "3")
    assert threads_within("a") == 3 and torch.get_num_threads() == 2
    ours.delenv("OMP_NUM_THREADS")
    ours.delenv(threads.VARIABLE)
    assert threads_within("a") == 1
    torch.set_num_threads(3)  # while we are there
    assert [threads_within("a") for _ in range(3)] == [3, 3, 3]
    torch.set_num_threads(2)
    assert threads_within("b") == 1


@pytest.mark.parametrize("text", ["0", "-1", "all", "1.5", ""])
def test_a_wrong_number_is_one_clear_line(ours, text):
    ours.setenv(threads.VARIABLE, text)
    with pytest.raises(fl.FedlabError, match=f"FEDLAB_MM_THREADS={text}: must be a whole number of threads"):
        threads_within("a")


def test_a_container_with_fewer_cores_than_its_machine(ours):
    ours.setattr(threads, "cores", lambda: 1)
    assert [threads_within("a") for _ in range(4)] == [1, 1, 1, 1]


def test_single_is_for_numpy_and_scikit_learn_too():
    from threadpoolctl import threadpool_info

    with single():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} <= {1}


def test_work_that_is_done_once_takes_the_cores_that_are_idle(ours):
    for busy, n in ((0.0, 2), (40.0, 2), (60.0, 1), (100.0, 1)):
        ours.setattr("psutil.cpu_percent", lambda interval, busy=busy: busy)
        ours.setattr(threads.os, "cpu_count", lambda: 3)
        with spare():
            assert torch.get_num_threads() == n
    ours.setenv(threads.VARIABLE, "2")
    with spare():
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("backbone", names("backbone"))
def test_rounds_do_not_depend_on_the_number_of_threads(world, recipe, backbone, method, monkeypatch):
    states = []
    for n in ("1", "2", "5"):
        monkeypatch.setenv(threads.VARIABLE, n)
        engine = engine_of("stacked", recipe.but(backbone=backbone, method=method, precision="float64"), world)
        for _ in range(2):
            engine.step()
        states.append({**engine.state(), "scores": engine.scores()})
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_it_works_where_torch_was_imported_first():
    code = (
        "import torch; torch.set_num_threads(2); n = torch.get_num_threads(); import fedlab_mm as fl; "
        "run = fl.train(fl.Recipe(rounds=3, dim=8, id_dim=8), fl.load('toy'), progress=False); "
        "assert torch.get_num_threads() == n; print(run.rounds_done)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in (threads.VARIABLE, *threads.OF_TORCH)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=clean)
    assert done.stdout.strip() == "3", done.stderr
