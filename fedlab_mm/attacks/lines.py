"""The line along which a client's rows lie, and on which of its sides the own items are."""

from typing import NamedTuple

import numpy as np

WEIGHT = 3.0  # of what rounds tell together of sides, beside what one round tells
TINY = 1e-300
LITTLE = 0.05  # what a loss pulls a row that it leaves where it is, as scores are not quite zero


class Line(NamedTuple):
    """One upload's rows on the line along which they lie: their places, up to a sign common to all, and which of them
    tell of more than noise."""

    rows: np.ndarray
    place_N: np.ndarray
    loud_N: np.ndarray


def place_on_line(change_NW: np.ndarray) -> tuple[np.ndarray, float]:
    """Each row's place along the line on which a client's rows lie, [N], and the factor that makes places of many
    rounds one sum. Which of the two sides is that of own items is open.

    The factor puts places in units of their root mean square, times the share of the rows' squares that lies along the
    line: one where there is nothing else, next to nothing where noise has drowned it.

    >>> place_N, along = place_on_line(np.array([[-1.0], [0.3], [0.3], [0.2], [0.2]]) @ np.array([[0.6, 0.8]]))
    >>> (along * place_N).round(1).tolist()
    [2.0, -0.6, -0.6, -0.4, -0.4]
    """
    squares_N = (change_NW**2).sum(axis=1)
    if not squares_N.any():
        return np.zeros(len(change_NW)), 0.0
    line_W = change_NW[squares_N.argmax()]
    for _ in range(30):  # power iteration
        line_W = change_NW.T @ (change_NW @ (line_W / np.linalg.norm(line_W)))
    place_N = change_NW @ (line_W / np.linalg.norm(line_W))
    along = (place_N**2).sum()
    return place_N, np.sqrt((squares_N > 0).sum() / along) * along / squares_N.sum()


def orient(
    place_TI: np.ndarray,
    n_own: float,
    negatives: int,
    pulls: tuple[float, float] = (0.5, 0.5),
    loud_TI: np.ndarray | None = None,
) -> np.ndarray:
    """By what to multiply each round's places so that own items lie on the positive side, [T]: 1 or −1, and less where
    nearly all lies on one side (FedRAP's own rows come to rest once the personal table holds what they say).

    Each round draws every own item once, and every other as chance has it. Of a single round that says:

    * of N draws among m others, m (1 − (1 − 1/m)^N) come at all, and weigh as much as m N / (m + N) of equal size;
    * in a client's first round scores are near zero, and a loss may pull own rows by another amount than negatives.

    A clue counts by how far apart it expects the sides to be. The rounds are then turned one way, the surest first,
    each by its own clues and by the items that it shares with those before it. Of all rounds together that says:

    * own places come again, each as large as its neighbours, and the others' change.

    With one negative for each item, few items and a single round to see, nothing tells the sides apart but that a
    negative may have come twice.

    Where no negatives are drawn own items alone are moved, all of them one way, and each round says it by itself.

    Args:
        place_TI: a client's places, from its first round on, zero where nothing came.
        n_own: how many items it has; negatives: how many it draws for each.
        pulls: the size of the loss's slope at a score of zero, for an own item and for a negative.
        loud_TI: bool, which places tell of more than noise; all, if left out.

    >>> own, drawn = [1, 1, 1, 0, 0, 0, 0, 0], [[0, 0, 0, 1, 2, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 2]]
    >>> orient(np.array([[0.5], [-0.5]]) * (np.array(drawn) - own), n_own=3, negatives=1).tolist()
    [-1.0, 1.0]
    """
    if not negatives:
        told_TI = place_TI if loud_TI is None or not loud_TI.any() else place_TI * loud_TI
        return np.where((told_TI**3).sum(axis=1) >= 0, 1.0, -1.0)
    others, drawn = max(place_TI.shape[1] - n_own, 1.0), negatives * n_own
    unit_TI = place_TI / (np.linalg.norm(place_TI, axis=1) + TINY)[:, None]
    place_TI = place_TI if loud_TI is None else place_TI * loud_TI
    sides = np.stack([place_TI.clip(min=0), -place_TI.clip(max=0)])  # [2, T, I]
    sum_ST, squares_ST = sides.sum(axis=2), (sides**2).sum(axis=2) + TINY
    come, weigh = (sides > 0).sum(axis=2) + 0.5, sum_ST**2 / squares_ST + 0.5
    clue_T = np.log(come[0] / come[1]) * np.log(n_own / (others * -np.expm1(-drawn / others)))
    clue_T += np.log(weigh[0] / weigh[1]) * np.log(n_own * (others + drawn) / (others * drawn))
    pull_S = sum_ST[:, 0] + LITTLE * sum_ST[:, 0].sum() + TINY
    pull = (pulls[0] + LITTLE) / (negatives * (pulls[1] + LITTLE))
    clue_T[0] += np.log(pull_S[0] / pull_S[1]) * np.log(pull)

    sign_T, before_I = np.ones(len(place_TI)), np.zeros(place_TI.shape[1])
    for t in np.argsort(-np.abs(clue_T)):
        shared = unit_TI[t] @ before_I / max(np.linalg.norm(before_I), TINY)
        sign_T[t] = 1.0 if clue_T[t] + WEIGHT * shared >= 0 else -1.0
        before_I += sign_T[t] * unit_TI[t]

    turned_TI = sign_T[:, None] * unit_TI
    sides = np.stack([turned_TI.clip(min=0), -turned_TI.clip(max=0)])
    alike = sides * (sides.sum(axis=2) / ((sides**2).sum(axis=2) + TINY))[:, :, None]
    again_S = (alike.sum(axis=1) ** 2).sum(axis=1) / ((alike**2).sum(axis=(1, 2)) + TINY) + 1e-3
    evidence = (sign_T * clue_T).mean() + WEIGHT * np.log(again_S[0] / again_S[1])
    sign_T, ordered = (sign_T, sides) if evidence >= 0 else (-sign_T, sides[::-1])
    share_T = ordered[0].sum(axis=1) / (ordered.sum(axis=(0, 2)) + TINY)
    return sign_T * np.minimum(2 * (1 + pull) * np.minimum(share_T / pull, 1 - share_T), 1)


def moved(place_N: np.ndarray, noise: float) -> np.ndarray:
    """Which rows lie further out on the line than three deviations of the noise, bool [N].

    >>> moved(np.array([0.0, -2.9, 3.1]), noise=1.0).tolist()
    [False, False, True]
    """
    return np.abs(place_N) > 3 * np.sqrt(noise)
