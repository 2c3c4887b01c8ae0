"""For tests, doctests and notebooks alike: one thread each, for pytest runs as many processes as there are cores.

Set before torch is loaded, and passed on to the kernels of notebooks.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
