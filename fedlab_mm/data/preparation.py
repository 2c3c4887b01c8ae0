"""What a reader gives of a publisher's files, and every choice on the way in."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from fedlab_mm.data.build import FEWEST
from fedlab_mm.encoding import Encoder, choose
from fedlab_mm.errors import FedlabError, whole_number


@dataclass(frozen=True)
class Raw:
    """What a publisher's files hold, before any choice is made.

    Attributes:
        interactions: user and item as the files name them, timestamp (whole seconds), fraction (what was left of a
            second, in the files' unit) where they are finer, rating (a number, or NaN where there is none) and split
            where the publisher has them; the index is the row in the file, for error messages.
        items: item (as in interactions), title; text, what the text encoder reads (the title if left out); image, the
            path of a picture or None.
        source, catalogue: what to call the two in an error, usually a file's path.
        features: ready ones: modality -> [I, d]; a row that is NaN throughout is a missing one.
        encode: the modalities to encode, of "image" and "text".
        covers: items' pictures where they are not files; truth: what was planted.
        dropped: what reading left out, and how many.
        numbered: whether rows are in the order of the numbers of users and items, as `save_dataset` writes them; else
            these are numbered by their sorted ids.
        about: what was understood, for `Dataset.about`.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    source: str = "interactions"
    catalogue: str = "items"
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    encode: tuple[str, ...] = ("image", "text")
    covers: Any = None
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    numbered: bool = False
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """The choices on the way from files to a dataset; `load` takes each as a keyword.

    Attributes:
        core: keep users and items with at least this many interactions, to a fixed point; 0 keeps all items.
        fewest: keep users with at least this many interactions (three: one each to train, validate and test).
        split: "given" by the publisher, "leave-one-out" by time, or "temporal", one clock for all; None: given where
            there is one, else leave-one-out.
        min_rating: keep interactions rated so or higher; None keeps all, whatever their stars.
        held_out: under "temporal", the share of interactions held out, half of it to validate.
        missing: "papers" (the mean of the other items' pictures; "The title is missing."), "zero" (a vector of zeros)
            or "drop" (the item and its interactions).
        encoder: "auto" (OpenCLIP, or the offline encoder where it cannot be had), "offline", "openclip",
            "openclip:MODEL/WEIGHTS", or an encoder object.
        device: of the encoder; cache: the folder of encoded features; progress: show bars.
    """

    core: int = 0
    fewest: int = FEWEST
    split: str | None = None
    min_rating: float | None = None
    held_out: float = 0.2
    missing: str = "papers"
    encoder: str | Encoder = "auto"
    device: str = "cpu"
    cache: str | os.PathLike[str] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("core", 0), ("fewest", FEWEST)):
            whole_number(name, getattr(self, name), least)
        for name, choices in (
            ("split", (None, "given", "leave-one-out", "temporal")),
            ("missing", ("papers", "zero", "drop")),
        ):
            if getattr(self, name) not in choices:
                listed = ", ".join(map(str, choices))
                raise FedlabError(f"unknown {name} '{getattr(self, name)}': there are: {listed}")
        stars: Any = self.min_rating
        if stars is not None and (not isinstance(stars, Real) or isinstance(stars, bool) or not math.isfinite(stars)):
            raise FedlabError(f"min_rating={stars!r}: the lowest rating to keep is a number")
        if not isinstance(self.held_out, Real) or not 0 < self.held_out < 1:
            raise FedlabError(f"held_out={self.held_out!r}: the share held out is a number between 0 and 1")
        if self.encoder != "auto":
            choose(self.encoder, self.device)  # a wrong name is said before the files are read

    def but(self, **changes: Any) -> "Preparation":
        """This preparation with some choices changed.

        >>> Preparation().but(kcore=5)
        Traceback (most recent call last):
        fedlab_mm.errors.FedlabError: load has no option kcore; there are: core, fewest, split, min_rating, ...
        """
        known = [f.name for f in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise FedlabError(f"load has no option {', '.join(unknown)}; there are: {', '.join(known)}")
        return dataclasses.replace(self, **changes)
