"""A dataset in three steps: find (or fetch) its files, read them as their publisher wrote them, prepare them.

A loader is one class: it says where its files come from and `read`s them into a `Raw`. Everything that is a choice, and
not a fact of the files, is in `Preparation`, and is made by `prepare`, the same for every dataset.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from fedlab_mm.data.build import FEWEST, OF_THESE, build
from fedlab_mm.data.fetch import Download, fetch
from fedlab_mm.data.splits import k_core, leave_one_out, places, temporal, without_repeats
from fedlab_mm.data.tables import check_ids, precise, shorten
from fedlab_mm.encoding import Covers, Encoder, cache_folder, choose, clean_text, encode_items
from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.network import offline
from fedlab_mm.records import SPLITS, Dataset

NO_TITLE = "The title is missing."


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
        partial: whether a predefined split may leave users without a target.
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
    partial: bool = False
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


class Source:
    """Base of the datasets that are read from files.

    Attributes:
        name: what `load` calls it; files: which must be there, relative to the dataset's folder; layouts: the same,
            where the files come in several forms.
        where_to_get: for people; downloads: for `fetch`, empty where the publisher does not allow or offer it.
        licence, citation: shown by `describe`.
        defaults: how it is prepared unless told otherwise.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    where_to_get: ClassVar[str]
    downloads: ClassVar[tuple[Download, ...]] = ()
    licence: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    defaults: ClassVar[Preparation] = Preparation()

    @classmethod
    def of(cls, part: str) -> "type[Source]":
        """The class of one part of a dataset that has several, as in "amazon:All_Beauty"."""
        raise FedlabError(f"dataset '{cls.name}' has no parts, so '{part}' is none of them")

    @classmethod
    def read(cls, folder: Path) -> Raw:
        """The files of `folder`, checked."""
        raise NotImplementedError

    @classmethod
    def load(cls, root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any) -> Dataset:
        """Find, read and prepare it; `seed` has no effect, for nothing is drawn."""
        how = cls.defaults.but(**options)
        return prepare(cls.name, cls.read(cls.find(root)), how, cls.about())

    @classmethod
    def find(cls, root: str | os.PathLike[str] | None = None) -> Path:
        """The folder that holds the files, fetched into the cache where that is possible and no root was named.

        Raises:
            FedlabError: they are not there and cannot be fetched; says where to get them and where to put them.
        """
        layouts = cls.layouts or (cls.files,)
        try:
            return find_folder(cls.name, layouts, cls.where_to_get, root)
        except FedlabError as error:
            if root is not None or not cls.downloads:
                raise
            if reason := offline():
                raise FedlabError(f"{error}. It is not fetched, for {reason}") from None
            try:
                fetch(cls.downloads, cache_folder() / cls.name, cls.name)
            except FedlabError as failed:
                raise FedlabError(f"{error}. Fetching it failed too: {failed}") from None
            return find_folder(cls.name, layouts, cls.where_to_get, cache_folder())

    @classmethod
    def about(cls) -> dict[str, str]:
        return {"licence": cls.licence, "citation": cls.citation, "source": cls.where_to_get}


def prepare(name: str, raw: Raw, how: Preparation, about: Mapping[str, str] | None = None) -> Dataset:
    """Clean, cut to the core, split, encode, fill in what is missing, and build.

    The order of rows has no say: users and items are numbered by their ids, and of two interactions of a user at the
    same time that with the lower item id is the earlier one (`Dataset.tied` counts the targets chosen so).

    Raises:
        FedlabError: an interaction with an unknown item, an item listed twice, nothing left after the core, …
    """
    if not len(raw.interactions):
        raise FedlabError(f"{raw.source}: there are no interactions in it")
    items = _checked_items(raw)
    log = _checked_log(raw, items)
    dropped = dict(raw.dropped)
    log = _rated(log, how.min_rating, raw, dropped)
    about = {**(about or {}), **raw.about, **_about_ratings(log, how.min_rating)}
    if how.split not in (None, "given"):
        log = log.drop(columns="split", errors="ignore")

    place_I = np.arange(len(items)) if raw.numbered else places(items["item"])
    if not raw.numbered:
        place = place_I[pd.Index(items["item"]).get_indexer(log["item"])]
        within = [log["fraction"]] if "fraction" in log else []
        log = log.iloc[np.lexsort([place, *within, log["timestamp"]])]
    kept = without_repeats(log)
    dropped["repeated pairs"] = len(log) - len(kept)
    log = _core(name, kept, how, raw, dropped)
    rows = np.flatnonzero(items["item"].isin(log["item"].unique()) | (not how.core))
    rows = rows[np.argsort(place_I[rows])]

    features, missing, problems, encoded = _features(raw, items, rows, how)
    if how.missing == "drop":
        whole = ~np.any([m for m in missing.values()], axis=0) if missing else np.ones(len(rows), dtype=bool)
        dropped |= {f"items without {m}": int(lost.sum()) for m, lost in missing.items()}
        before, log = len(log), log[log["item"].isin(items["item"].iloc[rows[whole]])]
        dropped["interactions with them"] = before - len(log)
        log = _core(name, log, how, raw, dropped)
        still = items["item"].iloc[rows].isin(log["item"].unique()).to_numpy() if how.core else True
        chosen = whole & still
        rows = rows[chosen]
        features = {m: f[chosen] for m, f in features.items()}
        missing = {m: lost[chosen] for m, lost in missing.items()}
        problems = problems[problems["item"].isin(items["item"].iloc[rows])]
    filled = {m: _fill(m, features[m], lost, how, raw) for m, lost in missing.items()}

    log, partial, tied = _split(name, log, how, raw, dropped)
    catalogue = items.iloc[rows].reset_index(drop=True)
    item_number = pd.Series(np.arange(len(catalogue)), index=catalogue["item"])
    users = pd.Series(pd.unique(log["user"]))
    if not raw.numbered:
        users = users.iloc[np.argsort(places(users))]
    user_number = pd.Series(np.arange(len(users)), index=users)
    log = log.assign(user=user_number.loc[log["user"]].to_numpy(), item=item_number.loc[log["item"]].to_numpy())
    covers = raw.covers
    if covers is not None and not np.array_equal(rows, np.arange(len(items))):
        covers = covers[rows]
    if covers is None and "image" in items and items["image"].notna().any():
        covers = Covers(catalogue["image"].tolist())
    untold = ["text", "image"] if "image" in raw.encode else []
    shown = catalogue.drop(columns=[c for c in untold if c in catalogue]).rename(columns={"item": "id"})
    shown = shown.assign(title=shown["title"].where(shown["title"] != "", NO_TITLE))
    truth = {k: v[rows] if k.endswith("_I") and len(v) == len(items) else v for k, v in raw.truth.items()}
    return build(
        name,
        log,
        shown,
        features,
        raw.source,
        covers,
        truth,
        dropped,
        user_ids=users.to_numpy(),
        partial=partial,
        tied=tied,
        missing={m: int(lost.sum()) for m, lost in missing.items() if lost.any()},
        filled={m: how_filled for m, how_filled in filled.items() if missing[m].any()},
        problems=problems.reset_index(drop=True),
        about={**about, **encoded},
    )


def _checked_items(raw: Raw) -> pd.DataFrame:
    items = raw.items.reset_index(drop=True)
    for column in ("item", "title"):
        if column not in items:
            raise FedlabError(f"{raw.catalogue}: column {column} is missing")
    if not len(items):
        raise FedlabError(f"{raw.catalogue}: there are no items in it")
    check_ids(raw.items["item"], "item", raw.catalogue)
    twice = items["item"].duplicated().to_numpy()
    if twice.any():
        row = raw.items.index[int(twice.argmax())]
        item = shorten(items["item"].iloc[int(twice.argmax())])
        raise FedlabError(f"{raw.catalogue}, row {row}: item {item} is listed twice")
    items = items.assign(title=[clean_text(t) for t in items["title"]])
    if "text" in items:
        items = items.assign(text=[clean_text(t) for t in items["text"]])
    return items


def _checked_log(raw: Raw, items: pd.DataFrame) -> pd.DataFrame:
    log = raw.interactions
    missing = sorted({"user", "item", "timestamp"} - set(log))
    if missing:
        raise FedlabError(f"{raw.source}: column {missing[0]} is missing; there are {', '.join(map(str, log))}")
    for column in ("user", "item"):
        check_ids(log[column], column, raw.source)
    if not pd.api.types.is_integer_dtype(log["timestamp"]) or log["timestamp"].hasnans:
        times = pd.to_numeric(log["timestamp"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if (bad := ~np.isfinite(times) | (times % 1 != 0)).any():
            row = int(bad.argmax())
            told = f"timestamp '{shorten(log['timestamp'].iloc[row])}' is not a whole number of seconds"
            raise FedlabError(f"{raw.source}, row {log.index[row]}: {told}")
    log = log.assign(timestamp=log["timestamp"].astype(np.int64))
    unknown = ~log["item"].isin(items["item"]).to_numpy()
    if unknown.any():
        row, n = int(unknown.argmax()), int(unknown.sum())
        more = f", nor are those of {n - 1} more rows" if n > 1 else ""
        raise FedlabError(
            f"{raw.source}, row {log.index[row]}: item {shorten(log['item'].iloc[row])} is unknown; "
            f"it is not among the {len(items)} of {raw.catalogue}{more}"
        )
    if "split" in log:
        bad = ~log["split"].isin(SPLITS).to_numpy()
        if bad.any():
            raise FedlabError(f"{raw.source}, row {log.index[int(bad.argmax())]}: split is none of {', '.join(SPLITS)}")
    return log.reset_index(drop=True)  # its labels were for the messages, and may come twice where files were joined


def _rated(log: pd.DataFrame, least: float | None, raw: Raw, dropped: dict[str, int]) -> pd.DataFrame:
    """Those rated high enough, and in `dropped` the others."""
    if least is None:
        return log
    if "rating" not in log:
        raise FedlabError(f"{raw.source}: min_rating={least:g}, but there are no ratings in it")
    kept = log[log["rating"] >= least]
    if not len(kept):
        raise FedlabError(f"{raw.source}: min_rating={least:g} leaves nothing: the highest is {log['rating'].max():g}")
    unrated = int(log["rating"].isna().sum())
    dropped[f"interactions rated below {least:g}"] = len(log) - len(kept) - unrated
    if unrated:
        dropped["interactions without a rating"] = unrated
    return kept


def _about_ratings(log: pd.DataFrame, least: float | None) -> dict[str, str]:
    if "rating" not in log or not log["rating"].notna().any():
        return {}
    span = f"{log['rating'].min():g} to {log['rating'].max():g}"
    return {"ratings": f"{span}, " + ("each an interaction" if least is None else "lower ones were left out")}


def warn_of_ratings(name: str, log: pd.DataFrame, stacklevel: int = 4) -> None:
    """Say that ratings which differ have no say, where nobody chose so."""
    if "rating" in log and log["rating"].min() < log["rating"].max():
        span = f"{log['rating'].min():g} to {log['rating'].max():g}"
        told = f"{name}: the ratings ({span}) are not used, so a low one counts as a like too"
        warnings.warn(f"{told}; min_rating= leaves out those below it", stacklevel=stacklevel)


def _core(name: str, log: pd.DataFrame, how: Preparation, raw: Raw, dropped: dict[str, int]) -> pd.DataFrame:
    """The core, and in `dropped` what fell outside it, added to what fell before."""
    # A split that was made before may have left a user with less.
    fewest = 1 if raw.partial and how.fewest == FEWEST else how.fewest
    users = max(how.core, fewest)
    kept = k_core(log, users, how.core)
    if not len(kept):
        if how.core:
            raise FedlabError(
                f"{raw.source}: core={how.core} leaves nothing: no users and items have {users} interactions among them"
            )
        raise FedlabError(f"{raw.source}: no user has {users} interactions (fewest={fewest}); nothing is left")
    few = "users with fewer than three interactions" if users == FEWEST else f"users with fewer than {users}"
    counts = {few: log["user"].nunique() - kept["user"].nunique()} if users > 1 else {}
    if how.core:
        counts |= {
            f"items with fewer than {how.core}": log["item"].nunique() - kept["item"].nunique(),
            "interactions outside the core": len(log) - len(kept),
        }
    elif counts.get(few):
        counts[OF_THESE] = len(log) - len(kept)
        warnings.warn(f"{name}: dropped {_counted(counts[few], few)}", stacklevel=5)
    for what, count in counts.items():
        dropped[what] = dropped.get(what, 0) + count
    return kept


def _split(
    name: str, log: pd.DataFrame, how: Preparation, raw: Raw, dropped: dict[str, int]
) -> tuple[pd.DataFrame, bool, dict[str, int]]:
    """The log with its split, whether users may lack a target, and how many targets share their time with another
    interaction of their user."""
    rule = how.split or ("given" if "split" in log else "leave-one-out")
    if rule == "given":
        if "split" not in log:
            raise FedlabError(f"{raw.source}: split='given', but it has no split column")
        return log, raw.partial, {}
    log = log.assign(split=leave_one_out(log) if rule == "leave-one-out" else temporal(log, how.held_out))
    at_once = log.duplicated([c for c in ("user", "timestamp", "fraction") if c in log], keep=False)
    tied = {s: n for s in ("valid", "test") if (n := int((at_once & (log["split"] == s)).sum()))}
    if rule == "leave-one-out":
        return log, False, tied
    dropped["interactions after a user's target"] = int((log["split"] == "").sum())
    log = log[log["split"] != ""]
    known = log["user"].isin(log["user"][log["split"] == "train"])
    dropped["users who come after the training time"] = log["user"][~known].nunique()
    dropped[OF_THESE] = dropped.get(OF_THESE, 0) + int((~known).sum())
    log = log[known]
    if set(log["split"]) != set(SPLITS):
        raise FedlabError(f"{raw.source}: split='temporal' leaves no training, validation or test interaction")
    return log, True, tied


def _features(
    raw: Raw, items: pd.DataFrame, rows: np.ndarray, how: Preparation
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], pd.DataFrame, dict[str, str]]:
    """Of the chosen rows: modality -> [I, d], modality -> missing [I], files that could not be read, the encoder's
    name."""
    features, missing = {}, {}
    for modality, feature in raw.features.items():
        chosen = precise(feature)[rows]
        lost = np.isnan(chosen).all(axis=1)
        features[modality] = np.where(lost[:, None], 0, chosen).astype(chosen.dtype)
        missing[modality] = lost
    some = items.iloc[rows]
    images = texts = None
    if "image" in raw.encode and "image" not in features and "image" in some and some["image"].notna().any():
        images = [None if pd.isna(p) else Path(p) for p in some["image"]]
    if "text" in raw.encode and "text" not in features:
        written = some["text"] if "text" in some else some["title"]
        texts = written.tolist()
        no_text = (written == "").to_numpy()
        if no_text.all():
            texts = None
        elif how.missing == "papers":
            texts = [text or NO_TITLE for text in texts]
    problems = pd.DataFrame({"item": [], "problem": []}, dtype=object)
    if images is None and texts is None:
        return features, missing, problems, {}
    encoded, encoder = encode_items(images, texts, how.encoder, how.device, how.cache, how.progress)
    for modality, result in encoded.items():
        features[modality] = result.vectors
        missing[modality] = result.missing_I if modality == "image" else no_text
    unread = encoded["image"].problems if "image" in encoded else {}
    if unread:
        problems = pd.DataFrame({"item": some["item"].iloc[list(unread)].tolist(), "problem": list(unread.values())})
        what = _counted(len(unread), "pictures cannot be read and count", "picture cannot be read and counts")
        more = " …" if len(unread) > 1 else ""
        told = f"{what} as missing: {problems['problem'].iloc[0]}{more} (data.problems lists all)"
        warnings.warn(told, stacklevel=4)
    about = {"encoder": _name_of(encoder)} | {f"{m} encoding": e.summary for m, e in encoded.items()}
    return features, missing, problems, about


def _fill(modality: str, feature: np.ndarray, lost: np.ndarray, how: Preparation, raw: Raw) -> str:
    """Write a missing item's row, in place; says how."""
    if lost.all():
        raise FedlabError(f"{raw.catalogue}: no item has '{modality}' that can be read")
    if how.missing == "zero":
        feature[lost] = 0
        return "zero"
    if modality == "text" and "text" not in raw.features:
        return f"'{NO_TITLE}'"  # encoded as any other text
    feature[lost] = feature[~lost].mean(axis=0, dtype=np.float64)
    return "mean of the others"


def _name_of(encoder: Encoder) -> str:
    known = encoder.identity
    return " ".join(str(known[k]) for k in ("encoder", "model", "weights") if k in known)


def _counted(n: int, many: str, one: str | None = None) -> str:
    return f"{n} {many if n != 1 else one or many.replace('users', 'user', 1)}"


def find_folder(name: str, layouts: Sequence[tuple[str, ...]], where_to_get: str, root: Any = None) -> Path:
    """The folder that holds all files of one of the layouts: `root`, else $FEDLAB_MM_DATA, else the user's cache
    folder.

    Each may be the dataset's folder itself or the folder that holds it under its name.

    Raises:
        FedlabError: none of them has all files; the message says where to get them and where to put them.
    """
    cache = cache_folder()
    given = root if root is not None else os.environ.get("FEDLAB_MM_DATA")
    bases = [Path(os.path.expanduser(given))] if given else []
    if root is None:
        bases.append(cache)
    tried = [folder for base in bases for folder in (base / name, base)]

    def lacking(folder: Path, files: tuple[str, ...]) -> list[str]:
        return [file for file in files if not (folder / file).is_file()]

    for files in layouts:
        for folder in tried:
            if not lacking(folder, files):
                return folder
    found = f"no {' or '.join(', '.join(files) for files in layouts)} in {' or '.join(map(str, tried))}"
    for files in layouts:
        for folder in tried:
            if 0 < len(lacks := lacking(folder, files)) < len(files):
                found = f"{folder} lacks {', '.join(lacks)}"
    raise FedlabError(
        f"dataset '{name}': {found}. Get them from {where_to_get}; put them into {cache / name}, "
        f"or pass the folder as root, or set FEDLAB_MM_DATA to it"
    )
