"""Each user's showings as sequences to predict along: what was shown before, what is shown now, whether it is clicked.

The sequence of a showing is what came before it, cut to the longest that a model reads. The first showing of all has
nothing before it, and is predicted from an empty token: so a user with one training showing still has something to
learn from. What pads a chunk of clients stands behind the real showings, where a causal model never looks; it carries
no loss.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.errors import FedlabError
from fedlab_mm.records import ClickLog


@dataclass
class Windows:
    """The sequences of some users, [C, T, …]; without the first axis of one.

    Attributes:
        users: int64 [C].
        user_codes: int64 [C, A'], rows of the table of user attributes.
        item_codes: int64 [C, T + 1, A], rows of the table of item attributes; position t is shown before t + 1.
        click: [C, T + 1], 1 where it was clicked; of those before, a model may know.
        started: [C, T], 0 where nothing was shown before; real: [C, T], 1 where there is something to predict.
        position: int64 [C, T], counted so that the last showing of every user has the same.
        known: [C, T], 1 where nothing is told that comes after the first showing of a held-out split that is to be
            predicted; in training all that is real. What reads a sequence as a whole (MRFF's gate) reads these.
    """

    users: Tensor
    user_codes: Tensor
    item_codes: Tensor
    click: Tensor
    started: Tensor
    real: Tensor
    position: Tensor
    known: Tensor

    @property
    def label(self) -> Tensor:
        return self.click[..., 1:]

    @property
    def lengths(self) -> Tensor:
        return self.real.sum(dim=-1)

    def of(self, c: int) -> "Windows":
        """One client's, nothing padded."""
        n = int(self.real[c].sum())
        long = ("item_codes", "click")
        cut = {f: getattr(self, f)[c] for f in self.__dataclass_fields__}
        cut = {f: v if f in ("users", "user_codes") else v[: n + (f in long)] for f, v in cut.items()}
        return Windows(**cut)

    def to(self, device: torch.device) -> "Windows":
        return Windows(**{f: getattr(self, f).to(device) for f in self.__dataclass_fields__})


class Sequences:
    """Windows of a click log.

    Args:
        max_length: the most showings that a window predicts.
        dtype: of clicks and masks.

    A user's training showings before its last `max_length` are not learnt from, as in the paper: they would need
    windows of their own.

    Raises:
        FedlabError: showings that are not in the order of user and time, a user's splits that are not, a user without
            training showings, a split without any; a split, click or code that there is not.
    """

    def __init__(self, log: ClickLog, max_length: int, dtype: torch.dtype):
        table = log.interactions
        _check(log)
        user, time = table["user"].to_numpy(), table["timestamp"].to_numpy()
        behind = (np.diff(user) < 0) | ((np.diff(user) == 0) & (np.diff(time) < 0))
        if behind.any():
            row = int(behind.argmax()) + 1
            raise FedlabError(
                f"{log.name}: showing {row} of user {user[row]} comes before the one above it: sort interactions by "
                "user and timestamp (stable, where times are equal)"
            )
        held = table["split"].map({"train": 0, "valid": 1, "test": 2}).to_numpy()
        mixed = (np.diff(user) == 0) & (np.diff(held) < 0)
        if mixed.any():
            row = int(mixed.argmax())
            raise FedlabError(
                f"{log.name}: showing {row} of user {user[row]} is held out, and the one after it is not: a sequence "
                "is split along time"
            )
        untrained = np.setdiff1d(np.arange(log.n_users), user[held == 0])
        if len(untrained):
            raise FedlabError(f"{log.name}: user {untrained[0]} has no training showing: leave such users out")
        self.max_length, self.dtype, self.n_users = max_length, dtype, log.n_users
        self.item = table["item"].to_numpy()
        self.click = table["click"].to_numpy()
        self.start = np.searchsorted(user, np.arange(log.n_users))
        self.end = {"train": self.start + np.bincount(user[held == 0], minlength=log.n_users)}
        for n, split, before in ((1, "valid", "train"), (2, "test", "valid")):
            self.end[split] = self.end[before] + np.bincount(user[held == n], minlength=log.n_users)
        self.user_codes = _codes(log.users, log.attributes["user"])
        self.item_codes = _codes(log.items, log.attributes["item"])

    def windows(self, split: str, users: np.ndarray) -> Windows:
        """Windows that end with the users' last showing of a split."""
        end_C = self.end[split][users]
        length_C = np.minimum(end_C - self.start[users], self.max_length)
        n = int(length_C.max()) if len(length_C) else 0
        place_CT = np.arange(n + 1)[None] - 1
        row_CT = end_C[:, None] - length_C[:, None] + place_CT
        exists_CT = (row_CT >= self.start[users][:, None]) & (place_CT < length_C[:, None])
        row_CT = np.where(exists_CT, row_CT, self.start[users][:, None])
        real_CT = np.arange(n)[None] < length_C[:, None]
        position_CT = np.minimum(self.max_length - length_C[:, None] + np.arange(n)[None], self.max_length - 1)
        known_CT = real_CT
        if split != "train":
            wanted_C = np.minimum(self.n_targets(split)[users], length_C)
            known_CT = real_CT & (np.arange(n)[None] <= (length_C - wanted_C)[:, None])
        floats = (self.click[row_CT] * exists_CT, exists_CT[:, :-1], real_CT, known_CT)
        click, started, real, known = (torch.from_numpy(x.astype(np.float64)).to(self.dtype) for x in floats)
        return Windows(
            torch.from_numpy(users),
            torch.from_numpy(self.user_codes[users]),
            torch.from_numpy(self.item_codes[self.item[row_CT]]),
            click,
            started,
            real,
            torch.from_numpy(position_CT),
            known,
        )

    def chunks(self, split: str, users: np.ndarray, size: int) -> list[Windows]:
        """Users of like length together, `size` at a time, so that little is padded."""
        length_U = np.minimum(self.end[split] - self.start, self.max_length)
        order = users[np.argsort(length_U[users], kind="stable")]
        return [self.windows(split, order[n : n + size]) for n in range(0, len(order), size)]

    def n_targets(self, split: str) -> np.ndarray:
        """How many showings of a split each user has: [U]."""
        before = {"train": self.start, "valid": self.end["train"], "test": self.end["valid"]}[split]
        return self.end[split] - before


def _check(log: ClickLog) -> None:
    table = log.interactions
    for column, known in (("split", ("train", "valid", "test")), ("click", (0, 1))):
        strange = ~table[column].isin(known).to_numpy()
        if strange.any():
            row = int(strange.argmax())
            raise FedlabError(
                f"{log.name}: {column} of showing {row} is {table[column].tolist()[row]!r}; there are "
                f"{', '.join(map(repr, known))}"
            )
    for split in ("valid", "test"):
        if not (table["split"] == split).any():
            raise FedlabError(f"{log.name}: no showing has the split '{split}'")
    for side, rows in (("user", log.users), ("item", log.items)):
        for name, n_codes in log.attributes[side].items():
            strange = ~rows[name].between(0, n_codes - 1).to_numpy()
            if strange.any():
                row = int(strange.argmax())
                raise FedlabError(
                    f"{log.name}: {name} of {side} {row} is {rows[name].iloc[row]}; its codes are 0 to {n_codes - 1}"
                )


def _codes(table, attributes) -> np.ndarray:
    """Codes of all attributes as rows of one table: each attribute's rows stand behind those of the one before."""
    offsets = np.cumsum([0, *attributes.values()])[: len(attributes)]
    columns = [table[name].to_numpy(dtype=np.int64) + offset for name, offset in zip(attributes, offsets, strict=True)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0), dtype=np.int64)
