"""Reading what other people wrote: every cell arrives as text, and what is wrong with one is said with file and row.

Rows are counted as a text editor shows them where no cell holds a line break: the header is row 1.
"""

import csv
import gzip
import itertools
import json
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from fedlab_mm.errors import FedlabError

_LARGEST_TIME = 2**53  # below it a double holds every whole number


def read_table(
    path: Path,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    sep: str = ",",
    encoding: str = "utf-8",
    optional: Mapping[str, str] | None = None,
    quoted: bool | None = None,
) -> pd.DataFrame:
    """A delimited file as text, an empty cell as "".

    Args:
        columns: our name -> the file's; all columns under their own names if left out.
        names: the file's columns, where it has no header.
        optional: further columns that may be there.
        quoted: whether cells may stand in quotation marks; as a rule only those parted by commas.

    Returns:
        The columns asked for, indexed by the row in the file.

    Raises:
        FedlabError: an unreadable file, a row with too many or too few cells, a column that is not there.
    """
    blank, quoted = _blank_lines(path), sep == "," if quoted is None else quoted
    table = _parsed(path, sep, encoding, blank, quoted, header=None if names is not None else 0, names=names)
    first = blank + (1 if names is not None else 2)
    table = table.set_axis(pd.RangeIndex(first, first + len(table)), axis=0)
    if (nothing := _nothing_in(table)).any():
        table = table[~nothing]
    if names is None:
        if any(f"{c}.1" in table for c in table):  # so pandas calls a second column of a name
            table.columns = [a or b for a, b in zip(first_row(path, sep, encoding, quoted), table.columns, strict=True)]
        table.columns = [str(c).strip().removeprefix("\ufeff") for c in table.columns]
        twice = table.columns[table.columns.duplicated()]
        if len(twice):
            raise FedlabError(f"{path}: column {shorten(twice[0])} is there twice")
    short = _first_short_row(table, path, sep, encoding, quoted)
    if short is not None:
        raise FedlabError(f"{path}, row {short}: has fewer cells than the header")
    if columns is not None:
        wanted = dict(columns) | {ours: theirs for ours, theirs in (optional or {}).items() if theirs in table}
        for theirs in wanted.values():
            if theirs not in table:
                hint = " (cells are parted by commas)" if len(table.columns) == 1 else ""
                raise FedlabError(f"{path}: column {theirs} is missing; there are {listed(table)}{hint}")
        table = table[list(wanted.values())].set_axis(list(wanted), axis=1)
    return table


def first_row(path: Path, sep: str = ",", encoding: str = "utf-8", quoted: bool = True) -> list[str]:
    """The cells of the first row, be it a header or not."""
    return _parsed(path, sep, encoding, _blank_lines(path), quoted, header=None, nrows=1).iloc[0].tolist()


def _parsed(path: Path, sep: str, encoding: str, blank: int, quoted: bool, **how: Any) -> pd.DataFrame:
    """The file's cells as text, without the blank lines at its beginning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path,
                sep=sep,
                dtype=str,
                keep_default_na=False,
                na_values=[],
                index_col=False,
                encoding=encoding,
                engine="python" if len(sep) > 1 else "c",
                skip_blank_lines=False,
                skiprows=blank,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                **how,
            )
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FedlabError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pd.errors.EmptyDataError:
        raise FedlabError(f"{path}: cannot be read as CSV (it is empty)") from None
    except pd.errors.ParserWarning:
        raise FedlabError(f"{path}: cannot be read as CSV (a row has more cells than the header)") from None
    except (pd.errors.ParserError, UnicodeError, ValueError, OverflowError, MemoryError) as error:
        reason = shorten(str(error).removeprefix("Error tokenizing data. C error: ") or type(error).__name__, 160)
        hint = "; save it as UTF-8" if isinstance(error, UnicodeError) and encoding == "utf-8" else ""
        raise FedlabError(f"{path}: cannot be read as CSV ({reason}{hint})") from None


def _blank_lines(path: Path) -> int:
    """How many blank lines come before anything else; none where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in itertools.takewhile(lambda line: not line.strip(b"\r\n"), file))
    except OSError:
        return 0  # whoever reads it says so


def _nothing_in(table: pd.DataFrame) -> np.ndarray:
    """The rows without a single character: blank lines, or cells that are all empty."""
    nothing = np.ones(len(table), dtype=bool)
    for column in table:
        rows = np.flatnonzero(nothing)
        if not len(rows):
            break
        cells = table[column].iloc[rows]
        nothing[rows] = (cells.isna() | (cells == "")).to_numpy()
    return nothing


def _first_short_row(table: pd.DataFrame, path: Path, sep: str, encoding: str, quoted: bool) -> int | None:
    """The first row with fewer cells than there are columns. pandas' C parser fills it up with empty cells, so where
    the last column has none of these, there is no such row; else the cells are counted."""
    if not len(table) or table.shape[1] < 2:
        return None
    last = table.iloc[:, -1]
    suspects = table.index[(last.isna() | (last == "")).to_numpy()]
    if not len(suspects):
        return None
    if len(sep) > 1:  # pandas' other parser leaves them out
        return next((int(row) for row in suspects if table.loc[row].isna().any()), None)
    limit = csv.field_size_limit(2**31 - 1)  # the most that Windows takes
    try:
        with open(path, encoding=encoding, newline="") as file:
            rows = csv.reader(file, delimiter=sep, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            wanted, lengths = set(suspects), enumerate(map(len, rows), start=1)
            return next((row for row, n in lengths if row in wanted and n < table.shape[1]), None)
    except csv.Error:
        return None  # pandas could read it, and so no row is known to be short
    finally:
        csv.field_size_limit(limit)


def whole_numbers(column: pd.Series, what: str, path: Path | str, per: int = 1) -> pd.Series:
    """Text as whole numbers, after division by `per` (rounded down); "964982703.0" and "1.5e9" are whole too. All that
    64 bits hold are exact.

    Raises:
        FedlabError: a cell that is none, naming file and row.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.dtype == np.int64:
        return numbers // per
    floats = numbers.to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(floats) | (floats % 1 != 0)
    large = np.flatnonzero(~bad & (np.abs(floats) >= _LARGEST_TIME))  # a double may have lost their last digits
    whole = np.where(bad | (np.abs(floats) >= _LARGEST_TIME), 0, floats).astype(np.int64)
    for row in map(int, large):
        exact = Decimal(column.iloc[row].strip())
        bad[row] = exact != exact.to_integral_value() or not -(2**63) <= exact < 2**63
        whole[row] = 0 if bad[row] else int(exact)
    if bad.any():
        row = int(bad.argmax())
        raise FedlabError(
            f"{path}, row {column.index[row]}: {what} '{shorten(column.iloc[row])}' is not a whole number"
            + (" (seconds since 1970 are wanted)" if "time" in what and pd.isna(numbers.iloc[row]) else "")
        )
    return pd.Series(whole // per, index=column.index)


def as_numbers(column: pd.Series, what: str, path: Path | str) -> pd.Series:
    """Text as numbers, an empty cell as NaN.

    Raises:
        FedlabError: a cell that is none, naming file and row.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    bad = ~np.isfinite(numbers.to_numpy()) & (column.str.strip() != "").to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise FedlabError(f"{path}, row {column.index[row]}: {what} '{shorten(column.iloc[row])}' is not a number")
    return numbers


def in_seconds(log: pd.DataFrame, per: int = 1000) -> pd.DataFrame:
    """Times in milliseconds, or in whatever `per` of make a second, as whole seconds, and what is left of each as
    `fraction`, so that what happened within a second keeps its order. The rows are put in it.

    >>> in_seconds(pd.DataFrame({"item": [7, 8], "timestamp": [1900, 1100]})).to_numpy().tolist()
    [[8, 1, 100], [7, 1, 900]]
    """
    log = log.sort_values("timestamp", kind="stable")
    return log.assign(timestamp=log["timestamp"] // per, fraction=log["timestamp"] % per)


def encoding_of(path: Path) -> str:
    """ "utf-8" where a file is valid UTF-8, else "latin-1", as the publishers wrote before it was usual."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    except OSError:
        pass  # whoever reads it says so
    return "utf-8"


def named(column: pd.Series, what: str, path: Path | str) -> pd.Series:
    """Identifiers, trimmed; an empty one is an error with file and row."""
    trimmed = column.str.strip()
    check_ids(trimmed, what, path)
    return trimmed


def check_ids(ids: pd.Series, what: str, path: Path | str) -> None:
    """Raises FedlabError where an identifier is missing or empty: pandas would leave its row out without a word."""
    empty = ids.isna().to_numpy()
    if not pd.api.types.is_numeric_dtype(ids):
        empty = empty | (ids.astype(str).str.strip() == "").to_numpy()
    if empty.any():
        raise FedlabError(f"{path}, row {ids.index[int(empty.argmax())]}: {what} is empty")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file, plain or `.gz`, with the number of their line.

    Raises:
        FedlabError: a line that is no JSON object, a file that is cut off; names file and line.
    """
    line = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for line, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                record = json.loads(raw)
                if not isinstance(record, dict):
                    raise FedlabError(f"{path}, line {line}: is not a JSON object")
                yield line, record
    except FedlabError:
        raise
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FedlabError(f"{path}, after line {line}: the compressed file is damaged or cut off ({error})") from None
    except (ValueError, RecursionError) as error:
        raise FedlabError(f"{path}, line {line}: is not JSON ({str(error)[:120]})") from None
    except OSError as error:
        raise FedlabError(f"{path}: cannot be read ({error.strerror or error})") from None


def as_name(value: Any) -> str | None:
    """A JSON value as an identifier, trimmed, or None: not text, empty, or half a character."""
    if not isinstance(value, str):
        return None
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        return None
    return value.strip() or None


def as_number(value: Any) -> float:
    """A JSON value as a number; NaN where it is none."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_TIME
    return float(value) if known else math.nan


def as_time(value: Any, per: int = 1) -> int | None:
    """A JSON value as whole seconds (after division by `per`), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    seconds = int(value) // per
    return seconds if abs(seconds) < _LARGEST_TIME else None


def read_json(path: Path) -> Any:
    """A JSON file. Raises FedlabError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FedlabError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise FedlabError(f"{path}: is not JSON ({str(error)[:120]})") from None


def read_feature(path: Path, n_items: int) -> np.ndarray:
    """A modality's features, [n_items, d] as `precise` gives them: a `.npy` file, or the only tensor of a
    `.safetensors` file.

    Raises:
        FedlabError: not an array of numbers, pickled content, the wrong number of rows, no columns.
    """
    try:
        packed = path.suffix.lower() == ".safetensors"
        tensors = _tensors(path) if packed else {path.stem: np.load(path, allow_pickle=False)}
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except Exception as error:  # a damaged file can fail anywhere in a parser, with any kind of error
        kind, reason = path.suffix or "feature", shorten(str(error) or type(error).__name__, 160)
        if "allow_pickle" in reason:
            reason = "it holds text or objects, which are never loaded"
        raise FedlabError(f"{path}: not a {kind} file of numbers ({reason})") from None
    if len(tensors) != 1:
        raise FedlabError(f"{path}: holds {len(tensors)} tensors ({', '.join(sorted(tensors))}); one is wanted")
    feature = next(iter(tensors.values()))
    if not isinstance(feature, np.ndarray) or feature.dtype.kind not in "fiu":
        raise FedlabError(f"{path}: holds {getattr(feature, 'dtype', type(feature).__name__)}, not numbers")
    if feature.ndim != 2 or len(feature) != n_items or not feature.shape[1]:
        raise FedlabError(f"{path}: has shape {list(feature.shape)}, but there are {n_items} items, a row each")
    return precise(feature)


def precise(feature: Any) -> np.ndarray:
    """Numbers as float32, or as float64 where their type holds more than that."""
    feature = np.asarray(feature)
    return np.ascontiguousarray(feature, np.float32 if np.can_cast(feature.dtype, np.float32) else np.float64)


def flaw(feature: np.ndarray, passed: np.ndarray | None = None) -> str | None:
    """The first value that cannot be computed with, and what it is; rows and columns count from 0. None if all can be.

    Args:
        passed: bool [I], rows that are not looked at.

    >>> flaw(np.array([[0.0, 1.0], [2.0, 1e300]]))
    'row 1, column 1 is 1e+300, too large for float32'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        bad = ~np.isfinite(feature.astype(np.float32, copy=False))
    if passed is not None:
        bad[passed] = False
    if not bad.any():
        return None
    row, column = divmod(int(bad.argmax()), bad.shape[1])
    value = feature[row, column]
    what = "NaN" if np.isnan(value) else "infinite" if np.isinf(value) else f"{value:g}, too large for float32"
    return f"row {row}, column {column} is {what}"


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """Those of a `.safetensors` file; bfloat16, which numpy does not know, as float32."""
    tensors = load_file(path)
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}


def listed(names: Iterable[object]) -> str:
    """The names of columns, for an error message."""
    return shorten(", ".join(shorten(name) for name in names), 400)


def shorten(text: object, n: int = 40) -> str:
    """At most `n` characters of a cell on one line, for an error message."""
    written = " ".join(str(text).split())
    return written if len(written) <= n else written[: n - 1] + "…"
