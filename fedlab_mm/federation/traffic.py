"""How much a client of a ranking federation moves in a round."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedlab_mm.methods import Method


@dataclass(frozen=True)
class Traffic:
    """In numbers: `download` in bytes; `upload(rows)` in bytes for so many items.

    Parts that stand still for good, the features under FedMR, are sent once and not counted here.
    """

    download: int
    per_row: int
    whole: int

    def upload(self, n_rows: np.ndarray | int) -> int:
        """Bytes of clients that send so many rows each, all together."""
        n_rows = np.asarray(n_rows, dtype=np.int64)
        of_a_row = self.per_row + 1 if self.per_row else 0  # and its number
        return int((4 * (of_a_row * n_rows + self.whole) + 8).sum())


def traffic(method: Method, sent: Mapping[str, Tensor]) -> Traffic:
    download = per_row = whole = 0
    for name, part in method.parts.items():
        numbers = sent[name].numel()
        if (part.moves or part.upload) and not part.told:
            download += 4 * numbers
        if part.upload and method.sends_rows(name):
            per_row += numbers // method.n_items
        elif part.upload:
            whole += numbers
        if part.by_group:  # its group's column
            download += 4 * numbers // sent[name].shape[-1]
    whole += sum(method.client.get_parameter(n).numel() for n in method.shown)
    return Traffic(download, per_row, whole)
