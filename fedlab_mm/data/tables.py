"""Reading what other people wrote: every cell arrives as text, and what is wrong with one is said with file and row.

Rows are counted as a text editor shows them where no cell holds a line break: the header is row 1.
"""

import gzip
import json
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedlab_mm.errors import FedlabError

_LARGEST_TIME = 2**53  # what a double holds exactly


def read_table(
    path: Path,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    sep: str = ",",
    encoding: str = "utf-8",
    optional: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A delimited file as text, an empty cell as "".

    Args:
        columns: our name -> the file's; all columns under their own names if left out.
        names: the file's columns, where it has no header.
        optional: further columns that may be there.

    Returns:
        The columns asked for, indexed by the row in the file.

    Raises:
        FedlabError: an unreadable file, a row with too many or too few cells, a column that is not there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=sep,
                header=None if names is not None else 0,
                names=None if names is None else list(names),
                dtype=str,
                keep_default_na=False,
                na_values=[],
                index_col=False,
                encoding=encoding,
                engine="python" if len(sep) > 1 else "c",
                quoting=3 if sep != "," else 0,  # only comma-separated files quote
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
        reason = str(error).strip().splitlines()[-1].removeprefix("Error tokenizing data. C error: ")
        raise FedlabError(f"{path}: cannot be read as CSV ({reason})") from None
    first = 1 if names is not None else 2
    table = table.set_axis(pd.RangeIndex(first, first + len(table)), axis=0)
    if names is None:
        table.columns = [str(c).strip().removeprefix("\ufeff") for c in table.columns]
    if columns is not None:
        wanted = dict(columns) | {ours: theirs for ours, theirs in (optional or {}).items() if theirs in table}
        for theirs in wanted.values():
            if theirs not in table:
                raise FedlabError(f"{path}: column {theirs} is missing; there are {', '.join(map(str, table))}")
        table = table[list(wanted.values())].set_axis(list(wanted), axis=1)
    short = table.isna().to_numpy().any(axis=1)
    if short.any():
        raise FedlabError(f"{path}, row {table.index[int(short.argmax())]}: has fewer cells than the header")
    return table


def whole_numbers(column: pd.Series, what: str, path: Path | str, per: int = 1) -> pd.Series:
    """Text as whole numbers, after division by `per` (rounded down); "964982703.0" and "1.5e9" are whole too.

    Raises:
        FedlabError: a cell that is none, naming file and row.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    exact = numbers.to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(exact) | (exact % 1 != 0) | (np.abs(exact) > _LARGEST_TIME)
    if bad.any():
        row = int(bad.argmax())
        raise FedlabError(
            f"{path}, row {column.index[row]}: {what} '{shorten(column.iloc[row])}' is not a whole number"
        )
    return pd.Series(exact.astype(np.int64) // per, index=column.index)


def named(column: pd.Series, what: str, path: Path | str) -> pd.Series:
    """Identifiers, trimmed; an empty one is an error with file and row."""
    trimmed = column.str.strip()
    empty = (trimmed == "").to_numpy()
    if empty.any():
        raise FedlabError(f"{path}, row {column.index[int(empty.argmax())]}: {what} is empty")
    return trimmed


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


def as_time(value: Any, per: int = 1) -> int | None:
    """A JSON value as whole seconds (after division by `per`), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    seconds = int(value) // per
    return seconds if abs(seconds) <= _LARGEST_TIME else None


def read_json(path: Path) -> Any:
    """A JSON file. Raises FedlabError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except (ValueError, RecursionError) as error:
        raise FedlabError(f"{path}: is not JSON ({str(error)[:120]})") from None


def read_feature(path: Path, n_items: int) -> np.ndarray:
    """A modality's features, float32 [n_items, d]: a `.npy` file, or the only tensor of a `.safetensors` file.

    Raises:
        FedlabError: not an array of numbers, pickled content, the wrong number of rows, no columns.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            if len(tensors) != 1:
                raise FedlabError(f"{path}: holds {len(tensors)} tensors ({', '.join(sorted(tensors))}); one is wanted")
            feature = next(iter(tensors.values()))
        else:
            feature = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FedlabError(f"{path}: there is no such file") from None
    except (ValueError, EOFError, OSError, SafetensorError, MemoryError, SyntaxError, OverflowError) as error:
        kind = path.suffix or "feature"
        raise FedlabError(f"{path}: not a {kind} file of numbers ({str(error)[:160]})") from None
    if not isinstance(feature, np.ndarray) or feature.dtype.kind not in "fiu":
        raise FedlabError(f"{path}: holds {getattr(feature, 'dtype', type(feature).__name__)}, not numbers")
    if feature.ndim != 2 or len(feature) != n_items or not feature.shape[1]:
        raise FedlabError(f"{path}: has shape {list(feature.shape)}, but there are {n_items} items, a row each")
    return np.ascontiguousarray(feature, dtype=np.float32)


def shorten(text: object, n: int = 40) -> str:
    """At most `n` characters of a cell, for an error message."""
    written = str(text)
    return written if len(written) <= n else written[: n - 1] + "…"
