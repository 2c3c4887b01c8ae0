"""All that decides a run, given the data: one frozen record that notebooks, the command line and saved runs share."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

import pandas as pd
import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.provenance import code_behind, is_foreign
from fedlab_mm.registry import foreign_members, lookup, lookup_in, names

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
            one η for all; of FedNCF 1 where lr is open too (at its 0.3 it stays below popularity on KU); of click
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
