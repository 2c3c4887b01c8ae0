"""What the click logs share: attributes as codes, each user's last showing held out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from fedlab_mm.data.source import Source
from fedlab_mm.data.splits import leave_one_out
from fedlab_mm.data.tables import check_ids, in_seconds, listed, read_table, whole_numbers
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import ClickLog


class ClickSource(Source):
    """Base of the click logs; `read_clicks` gives showings, users and items as the files name them."""

    options: ClassVar[tuple[str, ...]] = ("fewest", "last", "progress")

    @classmethod
    def load(  # type: ignore[override]
        cls, root: str | os.PathLike[str] | None = None, seed: int = 0, **options: Any
    ) -> ClickLog:
        """Find, read and split it; `seed` has no effect.

        Args:
            options: fewest, of showings for a user to stay (3); last, how many of a user's showings are for the test,
                and before them for validation (1; with several, users have an AUC of their own).
        """
        unknown = sorted(set(options) - set(cls.options))
        if unknown:
            raise FedlabError(
                f"{cls.name}, a click log, has no option {unknown[0]}; there are: {', '.join(cls.options)}"
            )
        last = options.pop("last", 1)
        how = cls.defaults.but(**options)
        folder = cls.find(root)
        log, users, items, source = cls.read_clicks(folder)
        return click_log(cls.name, log, users, items, source, how.fewest, cls.about(), last)

    @classmethod
    def read_clicks(cls, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
        """Showings (user, item, timestamp, click), users and items (id and attributes), and the showings' file."""
        raise NotImplementedError


def click_log(
    name: str,
    log: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    source: str,
    fewest: int,
    about: Mapping[str, str],
    last: int = 1,
) -> ClickLog:
    """Renumber and split showings. At equal times the later row counts as later, as in MRFF, whose target is a user's
    last row; `about` tells how many test showings that decides.

    Args:
        fewest: showings for a user to stay; one that would have none to train on goes in any case.
        last: how many of a user's showings are for the test, and before them for validation.

    Raises:
        FedlabError: nobody left, `last` below one.
    """
    if isinstance(last, bool) or not isinstance(last, int) or last < 1:
        raise FedlabError(f"last={last!r}: how many showings of a user are held out, a whole number from 1 on")
    fewest = max(fewest, 2 * last + 1)
    if not len(log):
        raise FedlabError(f"{source}: there are no showings in it")
    for column in ("user", "item"):
        check_ids(log[column], column, source)
    log = log.reset_index(drop=True)
    dropped = {}
    lengths = log.groupby("user")["user"].transform("size")
    dropped[f"users with fewer than {fewest} showings"] = log["user"][lengths < fewest].nunique()
    if (lengths < fewest).any():
        dropped["showings of these users"] = int((lengths < fewest).sum())
    log = log[lengths >= fewest]
    if not len(log):
        raise FedlabError(f"{source}: no user has {fewest} showings, some each to train, validate and test")
    tables, codes = [], {}
    for what, table in (("user", users), ("item", items)):
        ids = pd.Index(sorted(log[what].unique()))
        unknown = ids.difference(pd.Index(table["id"]))
        dropped[f"{what}s without attributes (a code of their own)"] = len(unknown)
        table = table.set_index("id").reindex(ids)
        coded = {column: _codes(table[column]) for column in table}
        codes[what] = {str(column): int(values.max()) + 1 for column, values in coded.items()}
        tables.append(pd.DataFrame({what: np.arange(len(ids)), "id": ids, **coded}))
        log = log.assign(**{what: ids.get_indexer(log[what])})
    log = log.assign(split=leave_one_out(log, last)).sort_values(["user", "timestamp"], kind="stable")
    at_once = log.duplicated([c for c in ("user", "timestamp", "fraction") if c in log], keep=False)
    if tied := int((at_once & (log["split"] == "test")).sum()):
        what = (
            f"{tied} of {int((log['split'] == 'test').sum())} test showings share their time with another of the user's"
        )
        about = {**about, "equal times": f"{what}: the later row of the file counts as later"}
    log = log[["user", "item", "timestamp", "click", "split"]].reset_index(drop=True)
    return ClickLog(name, log, tables[0], tables[1], codes, dropped, about)


def _codes(column: pd.Series) -> np.ndarray:
    """Different values as codes from 0, in sorted order; what is missing has the last code."""
    missing = column.isna() | (column == "")
    known = sorted(column[~missing].unique(), key=lambda v: (len(str(v)), str(v)))
    codes = column.map({value: n for n, value in enumerate(known)})
    return codes.where(~missing, len(known)).to_numpy(dtype=np.int64)


def showings(path: Path, columns: Mapping[str, str], counted: bool = False) -> pd.DataFrame:
    """User, item, timestamp (s; the file's in ms) and click of a log, in the order of time.

    Args:
        columns: our name of each -> the file's; counted: whether the file counts clicks.

    Raises:
        FedlabError: a cell that is no whole number, a click that is neither 0 nor 1.
    """
    log = read_table(path, columns)
    log = pd.DataFrame({ours: whole_numbers(log[ours], theirs, path) for ours, theirs in columns.items()})
    if counted:
        log = log.assign(click=(log["click"] > 0).astype(int))
    bad = ~log["click"].isin([0, 1]).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise FedlabError(f"{path}, row {log.index[row]}: click {log['click'].iloc[row]} is neither 0 nor 1")
    return in_seconds(log)


def attributes(table: pd.DataFrame, identifier: str, names: Sequence[str], path: Path) -> pd.DataFrame:
    """The id and some attributes of a table, under the name `id`.

    Raises:
        FedlabError: a column that is not there, an id that is no whole number or is listed twice.
    """
    lacking = [n for n in (identifier, *names) if n not in table]
    if lacking:
        raise FedlabError(f"{path}: column {lacking[0]} is missing; there are {listed(table)}")
    ids = whole_numbers(table[identifier], identifier, path)
    twice = ids.duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        raise FedlabError(f"{path}, row {ids.index[row]}: {identifier} {ids.iloc[row]} is listed twice")
    return table[list(names)].assign(id=ids)
