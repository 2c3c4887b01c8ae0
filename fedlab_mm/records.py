"""The records that everything else passes around, and the legend of axes.

A tensor's name ends with its axes, in order, one letter each:

    U  users (all of them)              C  clients of one round
    I  items                            J  items outside the catalogue
    M  signals: the item ID, and one    E  views (experts)
       per modality                     G  groups
    D  latent width                     W  width of a row: of an item table, of a feature
    d  width of one modality            H  hidden width of a router
    K  numbers side by side: an item's  N  rows of a client: items that it samples, showings
       views, a shown function, kinds   P  (client, item) pairs of a chunk of clients
    T  time: rounds, or showings        L  blocks of a transformer
    R  places of a ranking, from 1      S  seeds, or the sides of a line
    B  a basis of rows and maps         1  an axis of length one

So `scores_UI` is [users, items] and `views_EID` is [operators, items, width]. A test holds names to this list.
"""

import hashlib
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch

from fedlab_mm.errors import FedlabError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Histories:
    """Each user's items as one ragged array: user u holds `items[indptr[u]:indptr[u + 1]]`, sorted.

    >>> h = Histories.from_pairs([1, 0, 1], [5, 2, 3], n_users=2)
    >>> h[1]
    array([3, 5])
    >>> h.lengths
    array([1, 2])
    """

    indptr: np.ndarray
    items: np.ndarray

    def __repr__(self) -> str:
        return f"<Histories: {len(self):,} users, {len(self.items):,} items>"

    @classmethod
    def from_pairs(cls, users: Any, items: Any, n_users: int) -> "Histories":
        users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        order = np.lexsort((items, users))
        indptr = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
        return cls(indptr, items[order])

    def __getitem__(self, user: int) -> np.ndarray:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.indptr)

    @cached_property
    def users(self) -> np.ndarray:
        """The user of each entry of `items`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, users: np.ndarray) -> "Histories":
        """The histories of some users, in the order asked for.

        >>> Histories.from_pairs([0, 1, 1, 2], [9, 4, 5, 6], n_users=3).take(np.array([2, 1])).items
        array([6, 4, 5])
        """
        lengths = self.lengths[users]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        return Histories(indptr, self.items[np.repeat(self.indptr[users], lengths) + within])


@dataclass(frozen=True)
class Dataset:
    """Interactions, items and their encoded modalities, checked and split. Built by `data.build`.

    Attributes:
        name: what it was loaded as.
        interactions: one row per user–item pair: user, item (both from 0), timestamp (s), split.
        items: one row per item: item, title, and whatever else the source knows.
        features: modality -> float32 [I, d_m], as encoded (not standardised); float64 where float32 would lose a
            column.
        covers: `covers[item]` is uint8 [height, width, 3]; None where the pictures are not at hand.
        truth: what was planted, for generated data; empty for real data.
        dropped: what was left out on the way in, and how many of each.
        users: one row per user: user, and id, what the files called it.
        missing: modality -> how many items came without it; filled: what stands in their place.
        problems: one row for each file that is there but could not be read: item (its id), problem.
        about: licence, citation, source, encoder.
        tied: "valid" and "test" -> how many of their targets share their time with another interaction of their user,
            so that the order of item ids chose among them; only where there are any.
    """

    task: ClassVar[str] = "ranking"

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    features: Mapping[str, torch.Tensor]
    covers: Any = None
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    users: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"user": [], "id": []}))
    missing: Mapping[str, int] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)
    problems: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"item": [], "problem": []}))
    about: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        widths = ", ".join(f"{m} {f.shape[1]}" for m, f in self.features.items()) or "none"
        size = f"{self.n_users:,} users, {self.n_items:,} items, {len(self.interactions):,} interactions"
        return f"<Dataset {self.name}: {size}; features: {widths}>"

    def _repr_html_(self) -> str:
        return _as_html(self, self.describe())

    @property
    def n_users(self) -> int:
        return len(self.train)

    @property
    def n_items(self) -> int:
        return len(self.items)

    def _pairs(self, split: str) -> pd.DataFrame:
        return self.interactions[self.interactions["split"] == split]

    @cached_property
    def train(self) -> Histories:
        """Each user's training items: all that a client trains on and all that a ranking masks."""
        pairs = self._pairs("train")
        return Histories.from_pairs(pairs["user"], pairs["item"], self.interactions["user"].max() + 1)

    @cached_property
    def popularity_I(self) -> np.ndarray:
        """How many users hold each item in their training set."""
        return np.bincount(self.train.items, minlength=self.n_items)

    @property
    def warm_I(self) -> np.ndarray:
        """True where an item has a training interaction; a target that has none is a cold one."""
        return self.popularity_I > 0

    def targets(self, split: str) -> Histories:
        """Each user's held-out items of "valid" or "test": none, one or several."""
        pairs = self._pairs(split)
        return Histories.from_pairs(pairs["user"], pairs["item"], self.n_users)

    @cached_property
    def several(self) -> bool:
        """Has a user more than one target of a split, as under a random split?"""
        held_out = self.interactions[self.interactions["split"] != "train"]
        return bool(held_out.duplicated(["user", "split"]).any())

    def target_U(self, split: str) -> np.ndarray:
        """Each user's held-out item of "valid" or "test"; −1 for a user who has none, as under a temporal split.

        Raises:
            FedlabError: a user has several.
        """
        pairs = self._pairs(split)
        if (several := pairs["user"].duplicated()).any():
            user = int(pairs["user"][several].iloc[0])
            n = int((pairs["user"] == user).sum())
            raise FedlabError(
                f"{self.name}: user {user} has {n} {split} targets, and one is asked for: "
                f"targets('{split}') has all, split='leave-one-out' would leave one"
            )
        target_U = np.full(self.n_users, -1, dtype=np.int64)
        target_U[pairs["user"]] = pairs["item"]
        return target_U

    def n_cold(self, split: str) -> int:
        """How many targets of a split have no training interaction."""
        return int((~self.warm_I[self._pairs(split)["item"]]).sum())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of interactions, split, ids, titles and features: runs carry it, so a changed dataset is noticed."""
        ids = self.items["id"] if "id" in self.items else self.items["item"]
        parts: dict[str, Any] = {c: self.interactions[c].to_numpy("<i8") for c in ("user", "item", "timestamp")}
        parts |= {"split": self.interactions["split"], "users": self.users["id"], "items": ids}
        parts |= {"titles": self.items["title"]}
        return _digest({**parts, **{f"feature {m}": self.features[m].numpy() for m in sorted(self.features)}})

    def describe(self) -> pd.DataFrame:
        """What is in the data, and what was left out, as one column of figures."""
        n = len(self.interactions)
        rows: dict[str, int | float] = {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": n,
            "sparsity %": round(100 * (1 - n / (self.n_users * self.n_items)), 2),
            **{f"{s} interactions": len(self._pairs(s)) for s in SPLITS},
            "fewest training items of a user": int(self.train.lengths.min()),
            "median": float(np.median(self.train.lengths)),
            "most": int(self.train.lengths.max()),
            "items without a training interaction": int((~self.warm_I).sum()),
            **{f"{s} targets among them": self.n_cold(s) for s in ("valid", "test")},
            **{f"{s} targets chosen by item id at equal times": n for s, n in self.tied.items()},
            **{f"{m} feature width": f.shape[1] for m, f in self.features.items()},
            **{f"{m} missing, now {self.filled.get(m, 'zero')}": count for m, count in self.missing.items()},
            **({"unreadable pictures": len(self.problems)} if len(self.problems) else {}),
            **{f"dropped: {what}": count for what, count in self.dropped.items()},
        }
        return pd.DataFrame({self.name: pd.Series(rows, dtype=object)})


@dataclass(frozen=True)
class ClickLog:
    """What users were shown, and whether they clicked: data for click prediction.

    Attributes:
        name: what it was loaded as.
        interactions: one row per showing, sorted by user and time: user, item (both from 0), timestamp (s), click (0 or
            1), split. A pair may come up again, for a video can be shown twice.
        users, items: one row each: user or item, id (what the files called it), and a column of codes from 0 for each
            attribute.
        attributes: "user" and "item" -> name of an attribute -> how many different codes it has.
        dropped: what was left out on the way in; about: licence, citation, source.
        truth: what was planted, for generated data; empty for real data.
    """

    task: ClassVar[str] = "clicks"

    name: str
    interactions: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    attributes: Mapping[str, Mapping[str, int]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"{self.n_users:,} users, {self.n_items:,} items, {len(self.interactions):,} showings"
        return f"<ClickLog {self.name}: {size}>"

    def _repr_html_(self) -> str:
        return _as_html(self, self.describe())

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of showings, split, ids and attributes."""
        columns = ("user", "item", "timestamp", "click")
        parts: dict[str, Any] = {c: self.interactions[c].to_numpy("<i8") for c in columns}
        parts["split"] = self.interactions["split"]
        for side, table in (("user", self.users), ("item", self.items)):
            parts[f"{side} ids"] = table["id"]
            parts |= {f"{side} {name}": table[name].to_numpy("<i8") for name in self.attributes[side]}
        return _digest(parts)

    def describe(self) -> pd.DataFrame:
        """What is in the data, and what was left out, as one column of figures."""
        log = self.interactions
        lengths = log.groupby("user").size()
        rows: dict[str, int | float] = {
            "users": self.n_users,
            "items": self.n_items,
            "showings": len(log),
            "clicks %": round(100 * log["click"].mean(), 1),
            **{f"{s} showings": int((log["split"] == s).sum()) for s in SPLITS},
            **{f"{s} clicks %": round(100 * log["click"][log["split"] == s].mean(), 1) for s in ("valid", "test")},
            "fewest showings of a user": int(lengths.min()),
            "median": float(lengths.median()),
            "most": int(lengths.max()),
            **{f"{side} {name} codes": n for side in ("user", "item") for name, n in self.attributes[side].items()},
            **{f"dropped: {what}": count for what, count in self.dropped.items()},
        }
        return pd.DataFrame({self.name: pd.Series(rows, dtype=object)})


def _digest(parts: Mapping[str, Any]) -> str:
    """SHA-256 of arrays and columns of texts, each with its name and size, so that no two tables read alike."""
    digest = hashlib.sha256()
    for name, part in parts.items():
        if isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes()
            kind = f"{part.dtype.kind}{part.dtype.itemsize} {part.shape}"
        else:
            texts = [str(text).encode("utf-8", "surrogatepass") for text in part]
            content = b"".join(b"%d:%s" % (len(text), text) for text in texts)
            kind = f"texts {len(texts)}"
        digest.update(f"{name} {kind} {len(content)}:".encode("utf-8", "surrogatepass") + content)
    return digest.hexdigest()


def _as_html(record: Any, table: pd.DataFrame) -> str:
    """How a record shows itself in Jupyter: its line, and a table under it."""
    return f"<p>{html.escape(repr(record))}</p>{table.to_html()}"


@dataclass(frozen=True)
class Upload:
    """All that leaves a client in a round, and nothing else does.

    Attributes:
        client: who sends; n_samples: how many interactions it trained on (the weight of sample-weighted means).
        rows: int64 [N'], the items it touched, or says it did.
        values: what the method's `parts` say is uploaded, by name: copies as "item_table", accumulated gradients as
            "∇views". What is by item holds the rows, unless a backbone sends its items whole.
        by_row: the names that hold those rows only.
    """

    client: int
    n_samples: int
    rows: torch.Tensor
    values: Mapping[str, torch.Tensor]
    by_row: frozenset[str]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.values.items())
        return f"<Upload of client {self.client}: {len(self.rows):,} rows, {shapes}; {self.nbytes:,} bytes>"

    @property
    def nbytes(self) -> int:
        """Bytes on the wire: 4 for a float32 value, 4 for a row's number, 8 for the client and its sample count."""
        rows = len(self.rows) if self.by_row else 0
        return 4 * (sum(v.numel() for v in self.values.values()) + rows) + 8


class Model(Protocol):
    """What a Run asks of a trained engine."""

    @property
    def views(self) -> list[str]: ...
    def groups_of_users(self) -> np.ndarray | None: ...
    def predict(self, split: str) -> pd.DataFrame: ...
    def scores(self) -> torch.Tensor: ...
    def score_blocks(self) -> Iterator[tuple[slice, torch.Tensor]]: ...
    def global_scores(self) -> torch.Tensor: ...
    def scores_of_new(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor: ...
    def router_weights(self) -> torch.Tensor | None: ...
    def signals(self, user: int | None = None) -> dict[str, torch.Tensor]: ...
    def state(self) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class RoundRecord:
    """One communication round: `model` is live, so whoever iterates over rounds measures what it likes.

    `loss` is the federated objective Σ_u α_u L_u over the round's clients, averaged over the local epochs; `metrics`
    are those of validation, empty where the round was not evaluated; bytes are summed over the round's clients.
    """

    round: int
    clients: np.ndarray
    loss: float
    metrics: Mapping[str, float]
    upload_bytes: int
    download_bytes: int
    seconds: float
    model: Model

    def __repr__(self) -> str:
        metrics = "".join(f", {name} {value:.4f}" for name, value in self.metrics.items())
        return f"<Round {self.round}: {len(self.clients):,} clients, loss {self.loss:.4f}{metrics}>"
