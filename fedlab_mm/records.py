"""The records that everything else passes around, and the legend of axes.

A tensor's name ends with its axes, in order, one letter each:

    U  users (all of them)              C  clients of one round
    I  items                            M  signals: one per modality, and the item ID
    E  views (experts)                  G  groups
    D  latent width                     K  E·D, the views of one item side by side
    N  sampled interactions of a client P  (client, item) pairs of a chunk of clients
    H  hidden width of a router

So `scores_UI` is [users, items] and `views_EID` is [operators, items, width].
"""

import dataclasses
import hashlib
import html
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from fedlab_mm.errors import FedlabError
from fedlab_mm.files import whole
from fedlab_mm.provenance import code_behind, is_foreign
from fedlab_mm.registry import foreign_members, lookup, lookup_in, names
from fedlab_mm.threads import fixed
from fedlab_mm.version import versions

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

    def target_U(self, split: str) -> np.ndarray:
        """Each user's held-out item of "valid" or "test"; −1 for a user who has none, as under a temporal split."""
        pairs = self._pairs(split)
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


# The fields of a recipe that all members of a task read and other tasks do not; what only some read they declare.
_OF_TASK = {
    "": frozenset(
        "loss negatives negatives_by clip noise_multiplier rows row_epsilon id_lr_scale dim k ties "
        "operators without id_dim feature_scale view_scale".split()  # of fusion: what `none` passes on
    ),
    "click ": frozenset("max_length attribute_dim blocks heads dropout history".split()),
}
_FAMILIES = ("backbone", "method", "click backbone", "click method")


def _declared(family: str, name: str) -> frozenset[str]:
    """The settings that a member declares beside those of its task. One that is not ours and declares none may read
    those of all others of its task."""
    member = lookup(family, name)
    own = getattr(member, "settings", None)
    if own is None or (is_foreign(member) and "settings" not in vars(member)):
        kind = "click " if family.startswith("click ") else ""
        every = [f"{kind}backbone", f"{kind}method"]
        own = [s for f in every for n in names(f) for s in getattr(lookup(f, n), "settings", None) or ()]
    return frozenset(own)


def _read_by(backbone: str, method: str, kinds: Sequence[str] = ("", "click ")) -> frozenset[str]:
    """The fields of a recipe that a backbone with a method reads, by what kind of data they are for."""
    for_some = frozenset.union(*_OF_TASK.values(), *(_declared(f, n) for f in _FAMILIES for n in names(f)))
    read = frozenset(f.name for f in dataclasses.fields(Recipe)) - for_some
    for kind in kinds:
        parts = [(f"{kind}{family}", name) for family, name in (("backbone", backbone), ("method", method))]
        if all(name in names(family) for family, name in parts):
            read = read.union(_OF_TASK[kind], *(_declared(family, name) for family, name in parts))
    return read


def _as_html(record: Any, table: pd.DataFrame) -> str:
    """How a record shows itself in Jupyter: its line, and a table under it."""
    return f"<p>{html.escape(repr(record))}</p>{table.to_html()}"


@dataclass(frozen=True)
class Recipe:
    """All that decides a run, given the data. Two runs of one recipe on one dataset agree, whatever the engine.

    The defaults of feature_scale and rounds, and the rates of linear backbones under SGD, were chosen by validation
    NDCG@50 on KU and the toy set, 18 settings for `none` and 24 for `fedvlr`, seed 0.

    Attributes:
        dataset: a name that `load` knows.
        backbone: the ID-based recommender; method: where multimodal fusion happens around it.
        operators: the fusion operators g_j that a router chooses among, in order. "solo:image" is the view that is one
            signal alone, "solo" stands for one of each.
        without: signals left out of fusion: "id", or a modality.
        loss: L_recon, "bce" or "squares"; None for the backbone's own.
        rounds: communication rounds T; local_epochs: A, full-batch steps of a client in a round.
        patience: stop when validation NDCG has not risen for so many validations in a row; None: never before T.
        clients: the share of clients that take part in a round, in (0, 1].
        negatives: negatives drawn per positive, anew each round; negatives_by: "uniform", or "popularity", an item's
            training interactions plus one, which every client must then be told.
        sampling: how a round's clients are drawn where not all take part: "rested", none of the last round's; "fixed",
            as many, without memory; "poisson", each with that chance, so their number varies and may be zero.
        noise: variance of the Gaussian noise that a client adds to every number it uploads.
        clip: the bound on the length of a client's whole upload; None for none.
        noise_multiplier: of the server's noise, deviation over sensitivity: client-level differential privacy.
        rows: which rows a client sends: "touched", "all", or "flipped", the truth about each row told with probability
            e^ε / (1 + e^ε) only; row_epsilon: that ε.
        lr: η of what a client keeps (predictor, router). None: the backbone's own under SGD, 0.003 under Adam; of click
            models 0.5 and 0.01.
        shared_lr: η of what is shared: a client's copies of it and the server's D and γ. None: lr, for the papers write
            one η for all; of FedNCF 1 where lr is open too (at its 0.3 it stays below popularity on KU; at 1 it
            diverges there under noise, and under gfmfr and vbpr with one seed of three: name lower rates); of click
            models under the server's Adam 0.01.
        id_lr_scale: what shared_lr is multiplied by for a table with a row for each item under SGD, for a row sees only
            about one sample in n_items. None: n_items, but at most 25 times the mean number of a client's samples (the
            data tell it, so name a scale where privacy is to be proved); for D, which is behind a map, n_items / 20,
            but at least 30; for FedRAP's personal table 0.1 where lr and shared_lr are open too. By n_items for both
            tables FCF diverged in round 2 on short videos (6,710 items, half of the users with one training item),
            FedRAP in round 31 on KU. `benchmarks/results.md` has the table of what the defaults reach beside
            popularity. One falls short for what it is: FedAvg weighs clients by samples, and on the short videos, where
            most have one item, it stays below popularity (NDCG@50 0.008 to 0.012); with aggregation="equal" it does
            not (0.014).
        optimizer: of the client, and server_optimizer of the server (None: the same, but of click models "sgd", the
            plain mean): "sgd" as the algorithms state, or "adam". A client's Adam starts afresh each round, the
            server's goes on.
        weight_decay: L2 penalty added to the gradients, of clients and server alike.
        alpha, beta: FedRAP's weights of MSE(personal, common) and L1(common).
        aggregation: "weighted" by samples, "equal", or None for the backbone's own.
        groups: GFMFR's number of groups; None: chosen in every round by silhouette, up to 8.
        grouping: what clients are grouped by: "prediction" (their prediction functions), "behaviour" (the features of
            the rows that they have sent so far) or "random"; clustering: "kmeans" or "spectral".
        distill: GFMFR's λ; distill_schedule: "cosine", from λ down to zero over the rounds, or "constant";
            distill_scale: "ratio" multiplies the distillation loss by how much larger the recommendation loss is, a
            moving average of each client's own, which asks for small rates (at the default ones it diverges on the toy
            set); "none" does not.
        fit_epochs: steps of each group's fusion module in a round.
        max_length: click prediction: the most showings that a sequence has; attribute_dim: width of each attribute's
            embedding; blocks, heads: of a transformer; dropout: of its tokens and feed-forward layers.
        history: what a sequence tells of past showings: "items", their attributes (Eq. 1 of MRFF), or "clicks", also
            whether they were clicked.
        gate: MRFF's: "plain"; "weighted": a group's layer counts by its probability; "through": the balance loss
            teaches the layers below the gate too; or "random": each user's group is drawn, and stays; balance: its α
            (Eq. 8). Its number of groups is `groups`.
        gate_lr: the rate of gates, which move by plain SGD whatever moves the rest: the balance loss answers a round
            late, and in larger steps all clients change groups at once.
        dim: latent width D (the papers: 64); id_dim: width of the ID embedding of fused methods (512).
        feature_scale: features are standardised by column and multiplied by this; None leaves them as encoded.
        view_scale: in every round each view is divided by its root mean square over the catalogue and multiplied by
            this, so that routers do not choose a view for its size; None, as in the papers, leaves views as they are.
        init_scale: standard deviation of the initial item tables.
        k: cut-off of HR and NDCG; ties: "expected" or "index".
        evaluate_every: rounds between two validations.
        seed: of initial values, client sampling and negatives; precision: "float32" or "float64".
        engine: "stacked" (fast) or "loop" (the algorithm, line by line); chunk: clients that stacked takes at once, or
            None: as many as fit the cache.
        device: "cpu", or as torch names another, "cuda"; samples are drawn on the CPU and are the same everywhere.
    """

    dataset: str = "toy"
    backbone: str = "fcf"
    method: str = "fedvlr"
    operators: tuple[str, ...] = ("sum", "mlp", "gate")
    without: tuple[str, ...] = ()
    loss: str | None = None
    rounds: int = 60
    patience: int | None = None
    local_epochs: int = 5
    clients: float = 1.0
    negatives: int = 4
    negatives_by: str = "uniform"
    sampling: str = "rested"
    noise: float = 0.0
    clip: float | None = None
    noise_multiplier: float = 0.0
    rows: str = "touched"
    row_epsilon: float | None = None
    lr: float | None = None
    shared_lr: float | None = None
    id_lr_scale: float | None = None
    optimizer: str = "sgd"
    server_optimizer: str | None = None
    weight_decay: float = 0.0
    alpha: float = 0.1
    beta: float = 0.1
    aggregation: str | None = None
    groups: int | None = 4
    grouping: str = "prediction"
    clustering: str = "kmeans"
    distill: float = 0.1
    distill_schedule: str = "cosine"
    distill_scale: str = "none"
    fit_epochs: int = 50
    max_length: int = 65
    attribute_dim: int = 8
    blocks: int = 2
    heads: int = 1
    dropout: float = 0.0
    history: str = "items"
    gate: str = "plain"
    gate_lr: float = 0.1
    balance: float = 0.1
    dim: int = 64
    id_dim: int = 512
    feature_scale: float | None = 0.1
    view_scale: float | None = None
    init_scale: float = 0.1
    k: int = 50
    ties: str = "expected"
    evaluate_every: int = 1
    seed: int = 0
    precision: str = "float32"
    engine: str = "stacked"
    chunk: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._check_types()
        for family in ("backbone", "method", "engine"):
            lookup_in((family, f"click {family}"), getattr(self, family))
        for family in ("aggregation", "loss"):
            if getattr(self, family) is not None:
                lookup(family, getattr(self, family))
        for operator in self.operators:
            if operator.partition(":")[0] != "solo":
                lookup("operator", operator)
        if not self.operators:
            raise FedlabError("operators is empty: name at least one, e.g. operators=('sum',)")
        if len(set(self.operators)) < len(self.operators):
            raise FedlabError(f"operators={self.operators} names one twice")
        for name, choices in (
            ("optimizer", ("sgd", "adam")),
            ("server_optimizer", ("sgd", "adam", None)),
            ("ties", ("expected", "index")),
            ("negatives_by", ("uniform", "popularity")),
            ("sampling", ("rested", "fixed", "poisson")),
            ("rows", ("touched", "all", "flipped")),
            ("grouping", ("prediction", "behaviour", "random")),
            ("clustering", ("kmeans", "spectral")),
            ("distill_schedule", ("cosine", "constant")),
            ("distill_scale", ("ratio", "none")),
            ("history", ("items", "clicks")),
            ("gate", ("plain", "weighted", "through", "random")),
            ("precision", ("float32", "float64")),
        ):
            if getattr(self, name) not in choices:
                listed = ", ".join(str(c) for c in choices)
                raise FedlabError(f"unknown {name} '{getattr(self, name)}': there are: {listed}")
        at_least_one = ["rounds", "local_epochs", "negatives", "dim", "id_dim", "k", "evaluate_every", "fit_epochs"]
        at_least_one += ["max_length", "attribute_dim", "blocks", "heads"]
        for name in (*at_least_one, "groups", "patience", "chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FedlabError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 < self.init_scale < float("inf"):
            raise FedlabError(f"init_scale={self.init_scale}: must be a positive number")
        for name in ("lr", "shared_lr", "gate_lr", "id_lr_scale", "feature_scale", "view_scale", "clip", "row_epsilon"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise FedlabError(f"{name}={getattr(self, name)}: must be a positive number, or None")
        if not 0 <= self.dropout < 1:
            raise FedlabError(f"dropout={self.dropout}: the share that is dropped lies in [0, 1)")
        if not 0 < self.clients <= 1:
            raise FedlabError(f"clients={self.clients}: the share of clients in a round lies in (0, 1]")
        if (self.rows == "flipped") != (self.row_epsilon is not None):
            raise FedlabError(
                f"rows='{self.rows}' and row_epsilon={self.row_epsilon}: 'flipped' needs one, others none"
            )
        for name in ("weight_decay", "alpha", "beta", "seed", "noise", "noise_multiplier", "distill", "balance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise FedlabError(f"{name}={getattr(self, name)}: must not be negative")
        if self.seed >= 2**64:
            raise FedlabError(f"seed={self.seed}: must be below 2**64, for that is what generators take")
        self.refuse_foreign()

    def _check_types(self) -> None:
        """Whole numbers where they are meant, also from numpy; a name alone stands for a tuple of one."""
        kinds: dict[Any, tuple[type, str]] = {
            int: (Integral, "a whole number"),
            float: (Real, "a number"),
            str: (str, "a name"),
        }
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            plain, *optional = get_args(hint) or (hint,)
            if name in ("operators", "without"):
                value = (value,) if isinstance(value, str) else value
                if not isinstance(value, tuple | list) or not all(isinstance(v, str) for v in value):
                    raise FedlabError(f"{name}={value!r}: must be a name or several, as in {name}=('…', '…')")
                object.__setattr__(self, name, tuple(value))
            elif value is not None or not optional:
                kind, what = kinds[plain]
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise FedlabError(f"{name}={value!r}: must be {what}")
                object.__setattr__(self, name, plain(value))

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults.

        >>> Recipe(method="none", lr=0.5).changed
        {'method': 'none', 'lr': 0.5}
        """
        return {f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) != f.default}

    def __repr__(self) -> str:
        """What it trains, and what differs from the defaults.

        >>> Recipe(lr=0.5)
        Recipe(dataset='toy', backbone='fcf', method='fedvlr', lr=0.5)
        """
        told = {name: getattr(self, name) for name in ("dataset", "backbone", "method")} | self.changed
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    def _repr_html_(self) -> str:
        told = {"recipe": f"{self.label} on {self.dataset}", **{n: str(v) for n, v in self.changed.items()}}
        for name in ("dataset", "backbone", "method"):
            told.pop(name, None)
        return pd.Series(told, name="").to_frame().to_html()

    def but(self, **changes: Any) -> "Recipe":
        """This recipe with some fields changed.

        Settings that only the former backbone or method reads go back to their defaults.

        >>> Recipe().but(method="none", seed=3).label
        'fcf + none'
        >>> Recipe(backbone="fedrap", alpha=1.0).but(backbone="fcf") == Recipe()
        True
        """
        unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(self)})
        if unknown:
            raise FedlabError(f"a Recipe has no {', '.join(unknown)}: see help(fedlab_mm.Recipe)")
        now = [changes.get(family, getattr(self, family)) for family in ("backbone", "method")]
        if now != [self.backbone, self.method]:
            left = self.changed.keys() - changes.keys() - _read_by(*now)
            changes |= {f.name: f.default for f in dataclasses.fields(self) if f.name in left}
        return dataclasses.replace(self, **changes)

    @property
    def settings(self) -> frozenset[str]:
        """The names of the fields that this backbone with this method reads."""
        return _read_by(self.backbone, self.method)

    def refuse_foreign(self, kinds: Sequence[str] = ("", "click ")) -> None:
        """Complain of a field that was set and means nothing here.

        Args:
            kinds: of data: "" for items to rank, "click " for showings; both, as long as it is not known which.

        Raises:
            FedlabError: names the field, and who reads it.
        """
        for name in self.changed.keys() - _read_by(self.backbone, self.method, kinds):
            of = [f"{family} '{n}'" for family in _FAMILIES for n in names(family) if name in _declared(family, n)]
            task = "methods that rank items" if name in _OF_TASK[""] else "methods that predict clicks"
            raise FedlabError(
                f"{name}={getattr(self, name)!r}: '{self.label}' does not read it; it is a setting of "
                f"{', '.join(of) or task}"
            )

    @property
    def label(self) -> str:
        return f"{self.backbone} + {self.method}"

    @property
    def code(self) -> str:
        """SHA-256 of the code that a run of this recipe rests on (see `provenance`)."""
        named = [m for family in ("backbone", "method", "engine") for m in self._members(family)]
        named += [lookup(family, name) for family in ("aggregation", "loss") if (name := getattr(self, family))]
        named += [lookup("operator", o) for o in self.operators if o.partition(":")[0] != "solo"]
        # A member that is not ours may name others that are not: their loss, their rule.
        return code_behind(foreign_members() if any(is_foreign(m) for m in named) else ())

    def _members(self, family: str) -> list[Any]:
        """What the recipe names in a family: two, where ranking and clicks both have the name."""
        name = getattr(self, family)
        return [lookup(kind, name) for kind in (family, f"click {family}") if name in names(kind)]

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The inverse of `to_json`.

        >>> Recipe.from_json(Recipe(lr=0.5).to_json()) == Recipe(lr=0.5)
        True
        """
        return cls().but(**json.loads(text))


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
    @property
    def goal(self) -> str: ...
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


@dataclass(frozen=True)
class Run:
    """A finished training: the model at its best validation round, and the last state to go on from.

    Attributes:
        recipe, data: what was trained, on what.
        history: tidy DataFrame: round, split, metric, value.
        test: test metrics at `best_round`, chosen by validation NDCG@k.
        model: the engine, in the state of the best round.
        last_state: all that the next round needs, as named tensors.
        code: the hash of the code that trained it.
    """

    recipe: Recipe
    data: Any  # a Dataset, or a ClickLog
    history: pd.DataFrame
    test: Mapping[str, float]
    best_round: int
    model: Model
    last_state: Mapping[str, torch.Tensor]
    code: str = ""

    def __repr__(self) -> str:
        told = self._told()
        wide = max(len(what) for what in told)
        lines = (f"  {what:<{wide}}  {value}" for what, value in told.items())
        return "\n".join((f"<Run {self.recipe.label} on {self.data.name}, seed {self.recipe.seed}", *lines)) + ">"

    def _repr_html_(self) -> str:
        name = f"{self.recipe.label} on {self.data.name}, seed {self.recipe.seed}"
        return pd.Series(self._told(), name=name).to_frame().to_html()

    def _told(self) -> dict[str, str]:
        """What a reader asks first: what was changed, how far it went, what came out, how big it is."""
        changed = {n: v for n, v in self.recipe.changed.items() if n not in ("dataset", "backbone", "method", "seed")}
        n_bytes = sum(value.numel() * value.element_size() for value in self.last_state.values())
        return {
            "changed": ", ".join(f"{n}={v!r}" for n, v in changed.items()) or "nothing: the defaults",
            "rounds": f"{self.rounds_done}, the best {self.best_round} (valid {self.model.goal} {self.best_valid:.4f})",
            "test": ", ".join(f"{metric} {value:.4f}" for metric, value in self.test.items()),
            "size": f"{self.data.n_users:,} users, {self.data.n_items:,} items, {n_bytes / 1e6:.1f} MB of state",
        }

    @property
    def best_valid(self) -> float:
        """Validation NDCG@k, of click models AUC, at the best round; NaN where none was validated."""
        if not self.best_round:
            return float("nan")
        h = self.history
        at_best = (h["round"] == self.best_round) & (h["split"] == "valid") & (h["metric"] == self.model.goal)
        return float(h.loc[at_best, "value"].iloc[0])

    @property
    def rounds_done(self) -> int:
        return int(self.last_state["round"])

    @cached_property
    def scores_UI(self) -> torch.Tensor:
        """Every user's logit of every item, at the best round.

        Raises:
            FedlabError: the run predicts clicks.
        """
        self._ranks()
        return self.model.scores()

    def recommend(
        self, user: int | str, k: int = 10, new_items: Mapping[str, torch.Tensor] | None = None
    ) -> pd.DataFrame:
        """The k items with the highest scores that `user` does not hold in training: item, title, score, and id, what
        the files call it, where that is not its number.

        Args:
            user: its number, or, as text, what the files call it (`data.users`).
            new_items: modality -> [J, d_m], features of items that nobody has interacted with, encoded as the
                catalogue's. If given, the k best of these J items, numbered from 0: item, score, and the rank that each
                would take among the user's unseen items of the catalogue (1 is the top).

        Raises:
            FedlabError: no such user, k out of range, a method that does not fuse, features that do not fit; the run
                predicts clicks.
        """
        self._ranks()
        if isinstance(user, str):
            known = np.flatnonzero(self.data.users["id"].astype(str) == user)
            if not len(known):
                raise FedlabError(f"user='{user}': {self.data.name} has no such user (data.users lists them)")
            user = int(known[0])
        if not 0 <= user < self.data.n_users:
            raise FedlabError(f"user={user}: {self.data.name} has users 0 to {self.data.n_users - 1}")
        # Nobody keeps a new item, so it stands beside the catalogue as the global model scores it.
        scores_UI = self.scores_UI if new_items is None else self.model.global_scores()
        scores_I = scores_UI[user].clone()
        scores_I[torch.from_numpy(self.data.train[user])] = -torch.inf
        unseen = self.data.n_items - int(self.data.train.lengths[user])
        ranked_I = scores_I
        if new_items is not None:
            ranked_I = self.model.scores_of_new(new_items)[user]
            unseen = len(ranked_I)
        if not 1 <= k <= unseen:
            raise FedlabError(f"k={k}: user {user} can be recommended 1 to {unseen} items")
        order = torch.argsort(ranked_I, descending=True, stable=True)[:k].numpy()
        score = ranked_I.numpy()[order]
        if new_items is not None:
            ranks = [1 + int((scores_I > s).sum()) for s in score]
            return pd.DataFrame({"item": order, "score": score, "rank": ranks})
        items = self.data.items
        named = "id" in items and (items["id"].astype(str) != items["item"].astype(str)).any()
        top = items.iloc[order][["item", *(["id"] if named else []), "title"]].reset_index(drop=True)
        return top.assign(score=score)

    def _ranks(self) -> None:
        if isinstance(self.data, ClickLog):
            raise FedlabError(f"'{self.recipe.label}' predicts clicks and ranks nothing: see run.predictions")

    def groups(self) -> pd.Series | pd.DataFrame:
        """Which group each user is in, at the best round: user → group, and under MRFF user × block, as its gates chose
        when it last trained (they choose anew where it predicts). −1 for one that never took part.

        Raises:
            FedlabError: the method groups nobody.
        """
        group = self.model.groups_of_users()
        if group is None:
            raise FedlabError(f"method '{self.recipe.method}' groups nobody; gfmfr and mrff do")
        if group.ndim == 1:
            return pd.Series(group, name="group").rename_axis("user")
        return pd.DataFrame(group).rename_axis(index="user", columns="block")

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """What a click model predicts of each user's showings of a split, at the best round: user, click, logit.

        Raises:
            FedlabError: the run ranks items.
        """
        if not isinstance(self.data, ClickLog):
            raise FedlabError(f"'{self.recipe.label}' ranks items: see run.recommend and run.scores_UI")
        if split not in SPLITS:
            raise FedlabError(f"unknown split '{split}': there are: {', '.join(SPLITS)}")
        return self.model.predict(split)

    def router_weights(self) -> pd.DataFrame:
        """How much each user's router relies on each view: user × operator, rows sum to one."""
        weights_UE = self.model.router_weights()
        if weights_UE is None:
            raise FedlabError(f"method '{self.recipe.method}' has no router; fedmr and fedvlr have one")
        return pd.DataFrame(weights_UE.numpy(), columns=self.model.views).rename_axis(index="user", columns="operator")

    def signals(self, user: int | None = None) -> dict[str, np.ndarray]:
        """Where the items' signals lie in the space that they are fused in: signal -> float [I, D], "id" and every
        modality, z_m = W_m x_m + b_m.

        Args:
            user: as this user's personal table moves them (under FedRAP): with FedMR the ID embedding that is mapped is
                D + P^(u); where the server fuses, P^(u) is a signal of its own, "personal".

        Raises:
            FedlabError: a method without such a space, no such user, a backbone without personal tables.
        """
        self._ranks()
        if user is not None:
            if not 0 <= user < self.data.n_users:
                raise FedlabError(f"user={user}: {self.data.name} has users 0 to {self.data.n_users - 1}")
            if not any(name.startswith("personal_table") for name in self.last_state):
                raise FedlabError(f"user={user}: '{self.recipe.backbone}' has no personal item table; fedrap has")
        return {name: z_ID.numpy() for name, z_ID in self.model.signals(user).items()}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write recipe, history, test metrics and both states to `folder`; `load_run` reads them back.

        The folder appears whole or not at all: it is written beside its place and renamed. A run that was saved there
        before is replaced; a folder that holds anything else is left alone, with an error.
        """
        folder = free_folder(folder)
        try:
            with whole(folder) as partial:
                partial.mkdir()
                self._write(partial)
        except (OSError, SafetensorError) as error:  # a full disk, in either's words
            reason = getattr(error, "strerror", None) or error
            raise FedlabError(f"{folder} cannot be written ({reason}): choose another folder") from None
        return folder

    def _write(self, folder: Path) -> None:
        (folder / "recipe.json").write_text(self.recipe.to_json(), encoding="utf-8", newline="\n")
        self.history.to_csv(folder / "history.csv", index=False, lineterminator="\n")
        about = {
            "test": dict(self.test),
            "best_round": self.best_round,
            "data": {"name": self.data.name, "sha256": self.data.fingerprint},
            "code": self.code,
            "versions": versions(),
            "threads": fixed() or "chosen by the clock",
        }
        (folder / "run.json").write_text(json.dumps(about, indent=2), encoding="utf-8", newline="\n")
        save_file({k: v.contiguous() for k, v in self.model.state().items()}, folder / "best.safetensors")
        save_file({k: v.contiguous() for k, v in self.last_state.items()}, folder / "last.safetensors")


def free_folder(folder: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder that a run may be saved in; its parents are made.

    Raises:
        FedlabError: it is a file, or holds something that is not a run, or cannot be made.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise FedlabError(f"{folder} is a file: choose a folder to save the run in")
    if folder.exists() and any(folder.iterdir()) and not (folder / "recipe.json").exists():
        raise FedlabError(f"{folder} is not empty and holds no saved run: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent).cleanup()
    except OSError as error:
        raise FedlabError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None
    return folder
