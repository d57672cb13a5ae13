"""The one reader of delimited text: records with line numbers, headers, and the formats of file names."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["TableFormat", "column_index", "column_names", "read_records", "table_format"]


class TableFormat(NamedTuple):
    """How a table file separates its cells.

    Attributes:
        sep: Separator of cells.
        quoted: Whether ``"`` may enclose a cell; if not, ``"`` is an ordinary character.
        typed: Whether a column name has a type, as in RecBole's ``item_id:token``.
    """

    sep: str
    quoted: bool = True
    typed: bool = False


_ATOMIC = TableFormat("\t", quoted=False, typed=True)
_FORMATS = {
    ".csv": TableFormat(","),
    ".tsv": TableFormat("\t"),
    ".txt": TableFormat("\t"),
    ".item": _ATOMIC,
    ".user": _ATOMIC,
    ".inter": _ATOMIC,
}


def table_format(path: Path) -> TableFormat | None:
    r"""Return the format of a file name, without regard to ``.gz``; None for an unknown name.

    >>> table_format(Path("a.inter.gz"))
    TableFormat(sep='\t', quoted=False, typed=True)
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def column_names(cells: Sequence[str], *, typed: bool) -> list[str]:
    """Return the names of a header's cells, without RecBole's types if it has them."""
    return [cell.strip().partition(":")[0] if typed else cell for cell in cells]


def column_index(path: Path, names: Sequence[str], column: str, fix: str) -> int:
    """Return the index of a column in a header.

    Args:
        path: The file, for errors.
        names: Names of the columns.
        column: The column.
        fix: What the user can do if the column is missing or repeated.

    Raises:
        UserError: If the header has no such column, or two such columns.
    """
    if names.count(column) == 1:
        return names.index(column)
    hint = did_you_mean(column, names) if column not in names else ""
    what = "no column" if column not in names else "two columns"
    raise UserError(f"{path}: has {what} {column!r} (it has {', '.join(names)}){hint}; {fix}")


def read_records(
    lines: Iterable[str],
    sep: str,
    broken: Callable[[int, str], None],
    *,
    quoted: bool = True,
    strict: bool = False,
    any_length: bool = False,
) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the number of a record's last line, the number of its lines, and its cells; skip empty lines.

    A record uses only its own lines. After a broken record, reading continues with the line after the first
    line of that record.

    Args:
        lines: Lines with their ends.
        sep: Separator, one or more characters.
        broken: Called with the first line's number and the reason for each broken record.
        quoted: Whether ``"`` may enclose a cell; requires a separator of one character.
        strict: Whether text after a closing quotation mark breaks a record.
        any_length: Whether a cell may be longer than ``csv.field_size_limit()``, 131,072 characters; if not,
            a quotation mark without an end uses no more memory than that.
    """
    if not quoted:
        for number, line in enumerate(lines, start=1):
            if text := line.rstrip("\r\n"):
                yield number, 1, text.split(sep)
        return
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=sep, strict=strict)
    read = _without_limit(reader) if any_length else reader.__next__
    while True:
        source.taken.clear()
        try:
            cells, reason = read(), ""
        except StopIteration:
            return
        except csv.Error as error:
            cells, reason = [], str(error)
        if source.cut:
            reason = "a quotation mark is opened and never closed"
        if reason:
            source.give_back()  # the lines after an unmatched quotation mark are separate records
            broken(source.number, reason)
        elif cells:
            yield source.number, len(source.taken), cells


def _without_limit(reader: Iterator[list[str]]) -> Callable[[], list[str]]:
    """Return a function that reads a record of any length; other readers keep csv's limit."""

    def read() -> list[str]:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            return next(reader)
        finally:
            csv.field_size_limit(limit)

    return read


class _Lines:
    """Numbered lines for a csv reader; the lines of a broken record can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._again = iter(lines), deque[str]()
        self.taken: list[str] = []  # lines of the current record
        self.number, self.cut = 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is None:
            self.cut = bool(self.taken)  # a reader requests more lines only within quotation marks
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        return line

    def give_back(self) -> None:
        """Make all lines of the record but the first available again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        self.cut = False
