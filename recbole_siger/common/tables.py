"""A table with one row for each item or user, read in slices so that it is never in memory as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recbole_siger.common.records import TableFormat, column_index, column_names, read_records, table_format
from recbole_siger.errors import UserError

__all__ = ["Table", "open_table"]

_NAMES = {"\t": "tabs", ",": "commas"}

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """The start of each slice of ``step`` rows in a file whose rows were checked."""

    path: Path
    header: tuple[str, ...]
    id_col: str
    n_rows: int
    step: int
    offsets: tuple[int, ...]

    def rows(self, number: int) -> Iterator[tuple[str, Row]]:
        """Yield id and row of slice ``number``, in the order of the file."""
        with _Reader(self.path, _format(self.path), self.offsets[number]) as records:
            for _, cells in islice(records, self.step):
                row = dict(zip(self.header, cells, strict=True))
                yield row[self.id_col], row

    def all_rows(self) -> Iterator[tuple[str, Row]]:
        """Yield id and row of the whole file."""
        for number in range(len(self.offsets)):
            yield from self.rows(number)


def open_table(
    path: Path, id_col: str, columns: Sequence[str], *, step: int = 512, unique: bool = True
) -> Table:
    """Read a table once, to check the table and to find the starts of its slices.

    Args:
        path: ``.tsv`` or ``.txt`` (tabs), ``.csv`` (commas), or ``.item``, ``.user`` and ``.inter``
            (RecBole's atomic files); UTF-8, the first line names the columns.
        id_col: Column of the raw tokens.
        columns: Other required columns.
        step: Rows of a slice, >= 1.
        unique: Whether a repeated id is an error.

    Raises:
        UserError: If the file is missing, empty, or not a table of these formats, if a column is missing, or
            if an id is empty, repeated, or not on one line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table; name a .tsv or .csv file with one row for each item.")
    form = _format(path)
    with _Reader(path, form) as reader:
        records = iter(reader)
        _, cells = next(records, (0, []))
        if not cells:
            raise UserError(f"{path}: is empty; write a header and one row for each item.")
        header = _header(path, form, cells, [id_col, *columns])
        place, seen, offsets, n_rows = header.index(id_col), set[str](), [], 0
        start = reader.offset
        for line, cells in records:
            token = _check(path, line, cells, header, place)
            if unique and token in seen:
                raise UserError(f"{path}: line {line:,}: {id_col} {token!r} is repeated; keep one row of it.")
            seen.add(token)
            if n_rows % step == 0:
                offsets.append(start)
            n_rows, start = n_rows + 1, reader.offset
    if not n_rows:
        raise UserError(f"{path}: has a header and no rows; write one row for each item.")
    return Table(path, header, id_col, n_rows, step, tuple(offsets))


def _format(path: Path) -> TableFormat:
    form = table_format(path)
    if form is None or path.suffix == ".gz":
        raise UserError(f"{path}: the suffix is not that of a table; use .tsv (tabs) or .csv (commas).")
    return form


def _header(path: Path, form: TableFormat, cells: list[str], needed: Sequence[str]) -> tuple[str, ...]:
    names = column_names(cells, typed=form.typed)
    separator = _NAMES[form.sep]
    fix = f"are the columns separated by {separator}?" if len(names) == 1 else "correct the name"
    if len(set(names)) != len(names):
        raise UserError(f"{path}: two columns have one name ({', '.join(names)}); rename one.")
    for column in needed:
        column_index(path, names, column, fix)
    return tuple(names)


def _check(path: Path, line: int, cells: list[str], header: Sequence[str], place: int) -> str:
    """Return the id of a record; check that the record fits the header."""
    if len(cells) != len(header):
        raise UserError(
            f"{path}: line {line:,}: {len(cells)} values for {len(header)} columns; "
            f"separate them by {_NAMES[_format(path).sep]}, and quote a value that contains one."
        )
    if not cells[place] or re.search(r"[\r\n\t]", cells[place]):
        raise UserError(f"{path}: line {line:,}: {header[place]} is {cells[place]!r}; give every row an id.")
    return cells[place]


class _Reader:
    """The records of a table file from a byte position on, and the start of the next record."""

    def __init__(self, path: Path, form: TableFormat, offset: int = 0) -> None:
        self.offset, self._path = offset, path
        self._handle = path.open("rb")
        self._handle.seek(offset)
        self._records = read_records(
            self._lines(), form.sep, self._refuse, quoted=form.quoted, strict=True, any_length=True
        )

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(self._handle, start=1):
            encoding = "utf-8-sig" if self.offset == 0 else "utf-8"
            self.offset += len(line)
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                raise UserError(
                    f"{self._path}: line {number:,} is not UTF-8; save the file as UTF-8."
                ) from None

    def _refuse(self, line: int, reason: str) -> None:
        raise UserError(
            f"{self._path}: line {line:,}: {reason}; a value with a quotation mark, a separator "
            'or a line end must be quoted as "..." with "" inside.'
        )

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of a record's last line, counted from the start of reading, and its cells."""
        for number, _, cells in self._records:
            yield number, cells

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
