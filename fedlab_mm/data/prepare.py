"""From what a reader gives to a checked, split and encoded dataset."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fedlab_mm.data.build import FEWEST, OF_THESE, build
from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.splits import k_core, leave_one_out, places, temporal, without_repeats
from fedlab_mm.data.tables import check_ids, precise, shorten
from fedlab_mm.encoding import Covers, Encoder, clean_text, encode_items
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import SPLITS, Dataset

NO_TITLE = "The title is missing."


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

    log, tied = _split(name, log, how, raw, dropped)
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
    fewest = 1 if _is_given(log, how) and how.fewest == FEWEST else how.fewest
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
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The log with its split, and how many targets share their time with another interaction of their user."""
    rule = how.split or ("given" if "split" in log else "leave-one-out")
    if rule == "given":
        if "split" not in log:
            raise FedlabError(f"{raw.source}: split='given', but it has no split column")
        return log, {}
    log = log.assign(split=leave_one_out(log) if rule == "leave-one-out" else temporal(log, how.held_out))
    at_once = log.duplicated([c for c in ("user", "timestamp", "fraction") if c in log], keep=False)
    tied = {s: n for s in ("valid", "test") if (n := int((at_once & (log["split"] == s)).sum()))}
    if rule == "leave-one-out":
        return log, tied
    dropped["interactions after a user's target"] = int((log["split"] == "").sum())
    log = log[log["split"] != ""]
    known = log["user"].isin(log["user"][log["split"] == "train"])
    dropped["users who come after the training time"] = log["user"][~known].nunique()
    dropped[OF_THESE] = dropped.get(OF_THESE, 0) + int((~known).sum())
    log = log[known]
    if set(log["split"]) != set(SPLITS):
        raise FedlabError(f"{raw.source}: split='temporal' leaves no training, validation or test interaction")
    return log, tied


def _is_given(log: pd.DataFrame, how: Preparation) -> bool:
    return how.split in (None, "given") and "split" in log


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
