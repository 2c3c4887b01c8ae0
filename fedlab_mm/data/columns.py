"""What the columns of somebody's own table are, whatever they are called and however their times are written.

A table arrives as text (`tables.read_table`, or `as_text` of a frame). What was understood is said in words.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab_mm.data.tables import as_numbers, in_seconds, listed, named, shorten, whole_numbers
from fedlab_mm.errors import FedlabError, MissingExtra

# Ours -> what else it may be called, in lower case, without "_", "-" and spaces.
ALIASES = {
    "user": "userid uid reviewerid visitorid customerid".split(),
    "item": "itemid iid movieid videoid productid asin parentasin trackid songid bookid articleid".split(),
    "timestamp": "time datetime date ts timems unixreviewtime".split(),
    "split": [],
    "rating": "ratings stars score overall label click isclick clicked".split(),
    "title": "name itemtitle itemname movietitle".split(),
    "text": ["description"],
    "image": "imagepath imagefile picture".split(),
}
_UNITS = (("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9))
_FAR = 1e11  # seconds: the year 5138; as many milliseconds: 1973


def plain(column: object) -> str:
    """A column's name as `ALIASES` has it, without RecBole's type.

    >>> plain("movie_id:token")
    'movieid'
    """
    return re.sub("[ _-]", "", str(column).partition(":")[0].strip().lower())


def choose(columns: Sequence[str], wanted: Sequence[str], optional: Sequence[str], source: str) -> dict[str, str]:
    """Which column is which: ours -> the table's.

    Raises:
        FedlabError: one that is wanted is not there, or could be any of several.
    """
    chosen = {}
    for ours in (*wanted, *optional):
        under = {place: [c for c in columns if plain(c) == place] for place in (ours, *ALIASES[ours])}
        found = [c for place in under.values() for c in place]
        sure = [ours] if ours in columns else under[ours]
        if len(sure or found) > 1 and (sure or ours in wanted):
            raise FedlabError(f"{source}: each of {listed(sure or found)} could be the {ours}: call one of them {ours}")
        if not found and ours in wanted:
            hint = " (cells are parted by commas, semicolons, tabs or |)" if len(columns) == 1 else ""
            raise FedlabError(f"{source}: column {ours} is missing; there are {listed(columns)}{hint}")
        if found:
            chosen[ours] = (sure or found)[0]
            if ours in ("user", "item") and len(found) > 1:
                others = listed(c for c in found if c != chosen[ours])
                warnings.warn(f"{source}: column {chosen[ours]} is the {ours}; {others} is not read", stacklevel=6)
    return chosen


def interactions_of(table: pd.DataFrame, source: str, prepared: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """User, item, timestamp, and fraction, rating and split where there are any, and what was understood.

    Args:
        table: cells as text, its index the row in the file; prepared: whether `save_dataset` wrote it, in seconds.

    Raises:
        FedlabError: a column that is missing or ambiguous, an empty id, a time or a rating that is none.
    """
    columns = choose([str(c) for c in table], ("user", "item", "timestamp"), ("split", "rating"), source)
    log = table[list(columns.values())].set_axis(list(columns), axis=1)
    log = log.assign(user=named(log["user"], "user", source), item=named(log["item"], "item", source))
    if "rating" in log:
        if columns["rating"] != "rating" and pd.to_numeric(log["rating"], errors="coerce").isna().all():
            del columns["rating"]  # some other label
            log = log.drop(columns="rating")
        else:
            log = log.assign(rating=as_numbers(log["rating"], columns["rating"], source))
    understood = [f"{theirs} as {ours}" for ours, theirs in columns.items() if ours != theirs]
    if prepared:
        return log.assign(timestamp=whole_numbers(log["timestamp"], "timestamp", source)), understood
    times, per, unit = _times(log["timestamp"], columns["timestamp"], source)
    log = log.assign(timestamp=times)
    if unit != "in seconds":
        understood.append(f"times {unit}")
    return (in_seconds(log, per) if per > 1 else log), understood


def items_of(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Item, and title, text and image where there are any, and what was understood.

    Raises:
        FedlabError: no item column or several, an item that is empty or listed twice.
    """
    columns = choose([str(c) for c in table], ("item",), ("title", "text", "image"), source)
    items = table[list(columns.values())].set_axis(list(columns), axis=1)
    items = items.assign(item=named(items["item"], "item", source))
    twice = items["item"].duplicated()
    if twice.any():  # before any file that has a row for each
        first = int(twice.to_numpy().argmax())
        again = shorten(items["item"].iloc[first])
        raise FedlabError(f"{source}, row {items.index[first]}: item {again} is listed twice")
    return items, [f"{theirs} as {ours}" for ours, theirs in columns.items() if ours != theirs]


def _times(column: pd.Series, what: str, source: str) -> tuple[pd.Series, int, str]:
    """Whole numbers, how many of them make a second, and what they were taken for."""
    text = column.str.strip()
    if re.match(r"\d{4}-\d\d", next((cell for cell in text if cell), "")):
        dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        bad = dates.isna().to_numpy()
        if bad.any():
            row = int(bad.argmax())
            told = f"{what} '{shorten(text.iloc[row])}' is no date like 2024-05-31 or 2024-05-31T18:30:00"
            raise FedlabError(f"{source}, row {text.index[row]}: {told}")
        per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[dates.dt.unit]
        return dates.astype("int64"), per, "as dates (UTC where no zone is named)"
    numbers = whole_numbers(text, what, source)
    size = np.abs(numbers.to_numpy(dtype=np.float64))
    unit = np.searchsorted([_FAR, 1e3 * _FAR, 1e6 * _FAR], size, side="right")
    # Small numbers tell no unit: they may be turns, or the first days of 1970.
    telling = unit[size >= 1e8]
    chosen = int(np.median(telling)) if 2 * len(telling) > len(unit) else 0
    others = np.flatnonzero((size >= 1e8) & (unit != chosen))
    name, per = _UNITS[chosen]
    if len(others):
        other = f"'{shorten(text.iloc[others[0]])}' looks like {_UNITS[unit[others[0]]][0]}"
        told = f"{what} is read as {name}, but {other} (row {text.index[others[0]]}, and {len(others) - 1} more)"
        warnings.warn(f"{source}: {told}", stacklevel=6)
    return numbers, per, f"in {name}"


def as_text(table: Any, what: str) -> pd.DataFrame:
    """A frame as if it had been read from a file: an id is written without decimals, a missing cell is "".

    Raises:
        FedlabError: not a frame, or a column of a name that another has.
    """
    if not isinstance(table, pd.DataFrame):
        raise FedlabError(f"{what}: a pandas DataFrame is wanted, not a {type(table).__name__}")
    names = [str(c) for c in table.columns]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise FedlabError(f"{what}: column {shorten(twice[0])} is there twice")
    return pd.DataFrame({n: _as_text(table.iloc[:, k]) for k, n in enumerate(names)}, index=table.index, dtype=str)


def _as_text(column: pd.Series) -> list[str]:
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.map(lambda t: t.isoformat(), na_action="ignore").fillna("").astype(str).tolist()
    return [_cell(value) for value in column.tolist()]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file as text, its rows counted from 0.

    Raises:
        FedlabError: it cannot be read, or pyarrow is not installed.
    """
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise MissingExtra(f"{path}: a Parquet file", "pyarrow") from None
    except Exception as error:  # a damaged file can fail anywhere in a parser
        raise FedlabError(f"{path}: cannot be read as Parquet ({shorten(error, 160)})") from None
    return as_text(table, str(path))
