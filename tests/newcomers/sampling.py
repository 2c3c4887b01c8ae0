"""The clients of even number, then those of odd number."""

import numpy as np

from fedlab_mm.federation.selection import Sampling
from fedlab_mm.registry import register


@register("sampling", "in turns")
class InTurns(Sampling):
    def draw(self, n_users, n_wanted, last, rng):
        first = np.arange(int(len(last) > 0 and last[0] % 2 == 0), n_users, 2)
        return first[:n_wanted]
