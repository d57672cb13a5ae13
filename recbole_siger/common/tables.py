"""A table of items or users, one a row, read in slices so that it is never held whole."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["Table", "open_table"]

_FORMATS: dict[str, tuple[str, Literal[0, 3]]] = {
    ".tsv": ("\t", csv.QUOTE_MINIMAL),
    ".txt": ("\t", csv.QUOTE_MINIMAL),
    ".csv": (",", csv.QUOTE_MINIMAL),
    # RecBole's atomic files: a quotation mark is a character like any other, a column has a type.
    ".item": ("\t", csv.QUOTE_NONE),
    ".inter": ("\t", csv.QUOTE_NONE),
}
_NAMES = {"\t": "tabs", ",": "commas"}

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """Where each slice of ``step`` rows begins in a file whose rows have been checked."""

    path: Path
    header: tuple[str, ...]
    id_col: str
    n_rows: int
    step: int
    offsets: tuple[int, ...]

    def rows(self, number: int) -> Iterator[tuple[str, Row]]:
        """Yield id and row of slice ``number``, in the order of the file."""
        with _Records(self.path, self.offsets[number]) as records:
            for cells in islice(records, self.step):
                row = dict(zip(self.header, cells, strict=True))
                yield row[self.id_col], row

    def all_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield id and row of the whole file."""
        for number in range(len(self.offsets)):
            yield from self.rows(number)


def open_table(
    path: Path, id_col: str, columns: Sequence[str], *, step: int = 512, unique: bool = True
) -> Table:
    """Read a table once, to check it and to learn where its slices begin.

    Args:
        path: ``.tsv`` or ``.txt`` (tabs), ``.csv`` (commas), or ``.item`` and ``.inter`` (RecBole's atomic
            files); UTF-8, the first line names the columns.
        id_col: Column of the raw tokens.
        columns: Other columns that are needed.
        step: Rows of a slice, >= 1.
        unique: Refuse an id that stands twice.

    Raises:
        UserError: If the file is missing, no table of this form or empty, lacks a column, or has an id that
            is empty, repeated, or not on one line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table; name a .tsv or .csv file with one item a row.")
    if path.suffix not in _FORMATS:
        raise UserError(f"{path}: is no table by its name; write a .tsv (tabs) or .csv (commas) file.")
    with _Records(path) as records:
        header = _header(path, next(records, None), [id_col, *columns])
        place, seen, offsets, n_rows = header.index(id_col), set[str](), [], 0
        start = records.offset
        for cells in records:
            token = _check(path, records.line, cells, header, place)
            if unique and token in seen:
                raise UserError(
                    f"{path}: line {records.line:,}: {id_col} {token!r} is repeated; keep one row of it."
                )
            seen.add(token)
            if n_rows % step == 0:
                offsets.append(start)
            n_rows, start = n_rows + 1, records.offset
    if not n_rows:
        raise UserError(f"{path}: has a header and no rows; write one row an item.")
    return Table(path, header, id_col, n_rows, step, tuple(offsets))


def _header(path: Path, cells: list[str] | None, needed: Sequence[str]) -> tuple[str, ...]:
    if cells is None:
        raise UserError(f"{path}: is empty; write a header and one row an item.")
    names = [cell.partition(":")[0] for cell in cells] if path.suffix in (".item", ".inter") else cells
    for column in needed:
        if column not in names:
            hint = did_you_mean(column, names)
            if len(names) == 1:
                hint = f"; are the columns separated by {_separator(path)}?"
            raise UserError(f"{path}: has no column {column!r} (it has {', '.join(names)}){hint}")
    if len(set(names)) != len(names):
        raise UserError(f"{path}: two columns have one name ({', '.join(names)}); rename one.")
    return tuple(names)


def _check(path: Path, line: int, cells: list[str], header: Sequence[str], place: int) -> str:
    """Return the id of a record that has the header's form."""
    if len(cells) != len(header):
        raise UserError(
            f"{path}: line {line:,}: {len(cells)} values for {len(header)} columns; "
            f"separate them by {_separator(path)}, and quote a value that contains one."
        )
    if not cells[place] or re.search(r"[\r\n\t]", cells[place]):
        raise UserError(f"{path}: line {line:,}: {header[place]} is {cells[place]!r}; give every row an id.")
    return cells[place]


def _separator(path: Path) -> str:
    return _NAMES[_FORMATS[path.suffix][0]]


class _Records:
    """The records of a table file from a byte on; knows where the next one begins."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.offset, self._path = offset, path
        self.line = 0  # lines read so far; the line number where reading began at the first byte
        self._handle = path.open("rb")
        self._handle.seek(offset)
        self._delimiter, self._quoting = _FORMATS[path.suffix]
        self._source = self._lines()

    def _lines(self) -> Iterator[str]:
        for line in self._handle:
            encoding = "utf-8-sig" if self.offset == 0 else "utf-8"
            self.offset += len(line)
            self.line += 1
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                raise UserError(
                    f"{self._path}: line {self.line:,} is not UTF-8; save the file as UTF-8."
                ) from None

    def _record(self) -> list[str]:
        line = next(self._source)
        text = line.rstrip("\r\n")
        if "\r" not in text and ('"' not in text or self._quoting == csv.QUOTE_NONE):
            return text.split(self._delimiter) if text else []
        rest = chain([line], self._source)
        limit = csv.field_size_limit(sys.maxsize)  # a text may be longer than 131,072 characters
        try:
            return next(csv.reader(rest, delimiter=self._delimiter, quoting=self._quoting, strict=True))
        finally:
            csv.field_size_limit(limit)

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        try:
            while not (cells := self._record()):  # an empty line
                pass
        except csv.Error as error:
            raise UserError(
                f"{self._path}: line {self.line:,}: {error}; a value with a quotation mark, a separator "
                'or a line end is quoted as "..." with "" inside.'
            ) from None
        return cells

    def __enter__(self) -> _Records:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
