"""Interactions as arrays: tokens are numbered in order of appearance, so millions of rows fit in memory."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.options.yaml_values import shown
from recbole_siger.prepare.records import Rejected

__all__ = ["Interactions", "Row", "collect", "number", "read_token", "timestamp"]

MISSING = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""Words that RecBole, through pandas, reads as a missing value."""

PADDING = "[PAD]"
"""RecBole's name of user 0 and item 0."""

UNWRITABLE = re.compile('[\0\t\n\r"\ud800-\udfff]')
"""Characters that break a line, NUL, and unpaired surrogates, which JSON can encode and UTF-8 cannot."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")

Row = tuple[str, str, float | None, float | int | None]
"""User, item, rating, timestamp."""


@dataclass(frozen=True)
class Interactions:
    """Rows in the order of the source; ``users[user[row]]`` is the user of a row."""

    users: list[str]
    items: list[str]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: NDArray[np.float64] | None
    timestamp: NDArray[np.float64 | np.int64] | None  # int64 if all are whole

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """The users that have a row."""
        return len(np.unique(self.user))

    @property
    def n_items(self) -> int:
        """The items that have a row."""
        return len(np.unique(self.item))

    def item_tokens(self) -> list[str]:
        """Return the items that have a row, in order of first appearance."""
        return [self.items[index] for index in np.unique(self.item)]

    def user_tokens(self) -> list[str]:
        """Return the users that have a row, in order of first appearance."""
        return [self.users[index] for index in np.unique(self.user)]

    def keep(self, rows: NDArray[np.bool_]) -> Interactions:
        """Return the marked rows; users and items keep their numbers."""
        rating = None if self.rating is None else self.rating[rows]
        timestamp = None if self.timestamp is None else self.timestamp[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], rating=rating, timestamp=timestamp)

    def table(self) -> pd.DataFrame:
        """Return the rows with the column names of an atomic file."""
        columns: dict[str, Any] = {
            "user_id:token": np.array(self.users, dtype=object)[self.user],
            "item_id:token": np.array(self.items, dtype=object)[self.item],
        }
        if self.rating is not None:
            columns["rating:float"] = self.rating
        if self.timestamp is not None:
            # int64 ends at 2**63.
            whole = bool((self.timestamp == np.floor(self.timestamp)).all())
            whole = whole and bool((np.abs(self.timestamp) < 2.0**63).all())
            columns["timestamp:float"] = self.timestamp.astype(np.int64) if whole else self.timestamp
        return pd.DataFrame(columns)


def collect(
    path: Path, records: Iterable[tuple[int, Any]], read: Callable[[Any], Row], rejected: Rejected
) -> Interactions:
    """Read records into arrays; a record for which ``read`` raises a ``ValueError`` is rejected.

    Args:
        path: The file, for ``rejected.csv``.
        records: Line number and record.
        read: Makes a row of a record; all rows have a rating or none has, and likewise a timestamp.
        rejected: Collects the broken records; the error's message is the reason.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user, item, rating, time = array("q"), array("q"), array("d"), _Times()
    for line, record in records:
        try:
            one, other, value, when = read(record)
        except ValueError as error:
            rejected.add(path, line, str(error))
            continue
        user.append(users.setdefault(one, len(users)))
        item.append(items.setdefault(other, len(items)))
        if value is not None:
            rating.append(value)
        if when is not None:
            time.add(when)
    return Interactions(
        list(users),
        list(items),
        np.array(user, dtype=np.int64),
        np.array(item, dtype=np.int64),
        np.array(rating, dtype=np.float64) if rating else None,
        time.array(),
    )


class _Times:
    """Times, in int64 as long as all are whole: a double has 53 bits, and nanoseconds since 1970 need 61."""

    def __init__(self) -> None:
        self._whole, self._other = array("q"), array("d")

    def add(self, time: float | int) -> None:
        if self._other or time != int(time) or abs(time) >= 2**63:
            self._other = self._other or array("d", self._whole)
            self._other.append(time)
        else:
            self._whole.append(int(time))

    def array(self) -> NDArray[np.float64 | np.int64] | None:
        """Return the times, or None if there are none."""
        times = self._other or self._whole
        return np.array(times) if times else None


def read_token(what: str, value: Any) -> str:
    """Return an id as atomic files contain it.

    >>> read_token("item", " B0017 ")
    'B0017'

    Raises:
        ValueError: If the id is empty, reads as a missing value, would break a line, or is not text.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{what} {shown(value)} is no text")
    token = "" if value is None else str(value).strip()
    if not token:
        raise ValueError(f"{what} is missing")
    if token in MISSING:
        raise ValueError(f"{what} is missing: {token!r} is a word for a missing value")
    if token == PADDING:
        raise ValueError(f"{what} {token} is RecBole's name of the padding")
    if UNWRITABLE.search(token):
        raise ValueError(
            f"{what} {shown(token)} contains a tab, a line end, a quotation mark, NUL or an unpaired "
            "surrogate"
        )
    return token


def number(what: str, value: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: If the value is not a finite number.
    """
    try:
        found = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):  # JSON integers may exceed the range of float
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {value!r}, not a finite number")
    return found


def timestamp(what: str, value: Any) -> float | int:
    """Return a time: a number unchanged; an ISO 8601 date as seconds since 1970, in UTC by default.

    >>> timestamp("time", "1700000000123456789")
    1700000000123456789

    >>> timestamp("time", "1970-01-02")
    86400.0

    Raises:
        ValueError: If the value is neither a number nor a date.
    """
    try:
        found = number(what, value)
        text = str(value).strip()
        return int(text) if _WHOLE.fullmatch(text) and abs(int(text)) < 2**63 else found
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise ValueError(f"{what} is {value!r}, neither a number nor an ISO 8601 date") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
