"""Random numbers that depend on who draws them, not on when: one generator for each (seed, round, client).

A generator is a counter through a mixing function (SplitMix64: Steele, Lea and Flood 2014), so all numbers come
from one vectorised expression, and a result depends neither on the order of clients nor on how an engine groups them.
Good for experiments; a deployed mechanism needs a cryptographic generator.
"""

from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(seed: int, round: int, clients: np.ndarray, salt: int = 0) -> np.ndarray:
    """Each client's key, uint64 [C]; another salt gives unrelated numbers for another purpose."""
    with np.errstate(over="ignore"):
        key = _mix(np.uint64(seed) + _GOLDEN)
        if salt:
            key = _mix(key + np.uint64(salt) * _GOLDEN)
        key = _mix(key ^ (np.uint64(round) + _GOLDEN))
        return _mix(key ^ (np.asarray(clients).astype(np.uint64) * _GOLDEN + np.uint64(1)))


def bits(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """The number at a place of a client's sequence, uint64; keys and places are broadcast."""
    with np.errstate(over="ignore"):
        return _mix(key + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def normals(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Standard normal numbers, float64, by Box and Muller from the two halves of each place's bits.

    >>> x = normals(keys(0, 1, np.arange(100))[:, None], np.arange(1000))
    >>> bool(abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02)
    True
    """
    z = bits(key, counter)
    radius = (z >> np.uint64(32)).astype(np.float64)
    angle = (z & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.sqrt(-2 * np.log((radius + 0.5) / 2**32)) * np.cos(2 * np.pi * (angle + 0.5) / 2**32)


def uniforms(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64."""
    return (bits(key, counter) >> np.uint64(11)).astype(np.float64) / 2**53
