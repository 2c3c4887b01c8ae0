"""For tests, doctests and notebooks alike: one thread each, for pytest runs as many processes as there are cores.

Set before torch is loaded, and passed on to the kernels of notebooks.
"""

import os

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_addoption(parser):
    parser.addoption("--solutions", action="store_true", help="run the solutions of the notebooks' exercises (an hour)")
