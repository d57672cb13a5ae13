"""RecBole's atomic files, read exactly: ids stay text, numbers keep 64 bits, quotation marks are characters.

RecBole reads these files with pandas, which takes ids such as ``NA`` for missing values, joins lines at
quotation marks, and shifts the columns of rows with another number of cells.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.common.records import read_records
from recbole_siger.errors import UserError

__all__ = ["TYPES", "AtomicFile", "Field"]

TYPES = ("token", "token_seq", "float", "float_seq")
"""Types of columns that RecBole knows."""

_CHARACTERS = 1 << 24  # read at a time
_EXACT = 2.0**53  # greater whole numbers differ from the nearest float64
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
_PADDING = "[PAD]"


class Field(NamedTuple):
    """One column of an atomic file.

    Attributes:
        name: Name of the column.
        type: One of :data:`TYPES`.
    """

    name: str
    type: str


class AtomicFile:
    r"""A file of tab-separated columns whose first line names the columns and their types.

    Args:
        path: The file.
        separator: Text between two cells.
        encoding: Encoding of the text; a byte-order mark of UTF-8 is skipped.

    Raises:
        UserError: If the file cannot be read, or its first line does not name columns as ``NAME:TYPE``.

    Example:
        >>> path = getfixture("tmp_path") / "toy.inter"
        >>> _ = path.write_text('user_id:token\ttime:float\nNA\t5\n"007\t1700000000123456789\n')
        >>> file = AtomicFile(path)
        >>> file.fields
        [Field(name='user_id', type='token'), Field(name='time', type='float')]
        >>> {name: cells.tolist() for name, cells in file.read(file.fields).items()}
        {'user_id': ['NA', '"007'], 'time': [5, 1700000000123456789]}
    """

    def __init__(self, path: Path, separator: str = "\t", encoding: str = "utf-8") -> None:
        self.path, self._separator = path, separator
        self._encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8", "utf_8") else encoding
        with self._open() as lines:
            first = lines.readline().rstrip("\r\n")
        if not first:
            raise UserError(f"{path}: the first line is empty; write the columns there as NAME:TYPE")
        self.fields = self._parse_header(first)

    def _parse_header(self, line: str) -> list[Field]:
        cells = line.split(self._separator)
        while len(cells) > 1 and not cells[-1]:
            cells.pop()
        fields = []
        for cell in cells:
            name, _, kind = cell.partition(":")
            if not name or kind not in TYPES:
                raise UserError(
                    f"{self.path}: line 1: {cell[:80]!r} does not name a column; write NAME:TYPE, with one "
                    f"of the types {', '.join(TYPES)}, separated by field_separator={self._separator!r}"
                )
            fields.append(Field(name, kind))
        names = [field.name for field in fields]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{self.path}: line 1: two columns are named {repeated[0]!r}; rename one")
        return fields

    def read(self, wanted: Sequence[Field], ids: Collection[str] = ()) -> dict[str, NDArray[Any]]:
        """Read columns.

        Args:
            wanted: Columns of the file.
            ids: Names of the columns of type ``token`` in which every cell must name something.

        Returns:
            ``{name: cells}``, each of shape ``(rows,)``. Cells of type ``float`` are float64, NaN where
            the cell is empty or one of pandas' words for it; or int64, where the column has whole numbers
            only and float64 cannot hold them. All other cells are text.

        Raises:
            UserError: If a row has too few or too many cells, if an id is empty or is RecBole's name of the
                padding, if a number is not finite or no number, or if the text is not in the encoding.
        """
        columns: dict[Field, _Numbers | _Texts] = {
            field: _Numbers() if field.type == "float" else _Texts() for field in wanted
        }
        n_rows = 0
        with self._open() as lines:
            next_line = 2
            lines.readline()
            while text := lines.read(_CHARACTERS):
                text += lines.readline()
                block: Sequence[Any] = self._parse(text, wanted) or self._parse_rows(text, next_line, wanted)
                for (field, column), cells in zip(columns.items(), block, strict=True):
                    if (at := column.add(cells)) is not None:
                        self._refuse(n_rows + at, field.name, cells[at], "is not a finite number; write one")
                n_rows += len(block[0])
                next_line += text.count("\n")
        read = {field.name: column.array() for field, column in columns.items()}
        for field, column in columns.items():
            if isinstance(column, _Texts):
                self._check_texts(field.name, column, read[field.name], is_id=field.name in ids)
        return read

    def _parse(self, text: str, wanted: Sequence[Field]) -> list[NDArray[Any]] | None:
        """Return the columns of whole lines by pandas; None where a line or a number is not plain."""
        data, separator = text.encode("utf-8"), self._separator.encode("utf-8")
        data = data.replace(b"\r\n", b"\n") + b"\n" * (not data.endswith(b"\n"))
        if len(separator) != 1 or b"\r" in data or b"\0" in data:
            return None
        characters = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(characters == ord("\n"))
        filled = np.diff(ends, prepend=-1) > 1
        n_separators = np.diff(np.searchsorted(np.flatnonzero(characters == ord(separator)), ends), prepend=0)
        if not filled.any() or (n_separators[filled] != len(self.fields) - 1).any():
            return None
        names = [field.name for field in self.fields]
        try:
            frame = pd.read_csv(
                BytesIO(data),
                sep=self._separator,
                header=None,
                names=names,
                usecols=[field.name for field in wanted],
                index_col=False,
                dtype={field.name: np.float64 if field.type == "float" else str for field in wanted},
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                engine="c",
                float_precision="round_trip",
            )
        except (ValueError, OverflowError):  # text among numbers
            return None
        columns = [frame[field.name].to_numpy() for field in wanted]
        plain = all(c.dtype == object or bool((np.abs(c) < _EXACT).all()) for c in columns)
        return columns if plain and len(frame) == filled.sum() else None

    def _parse_rows(self, text: str, first_line: int, wanted: Sequence[Field]) -> list[list[str]]:
        """Return the columns of whole lines row by row; the columns of numbers are text."""
        rows = []
        for number, _, cells in read_records(text.split("\n"), self._separator, _never, quoted=False):
            if len(cells) != len(self.fields):
                self._check_length(first_line + number - 1, cells)
            rows.append(cells)
        return [[row[place] for row in rows] for place in map(self.fields.index, wanted)]

    def _check_texts(self, name: str, column: _Texts, cells: NDArray[Any], *, is_id: bool) -> None:
        """Refuse NUL characters, which numpy would drop, and ids that would become the padding."""
        for text in column.known:
            if "\0" in text:
                why = "holds a NUL character; remove it, or set the file's `encoding`"
            elif is_id and not text:
                why = "is empty; write the id or remove the row"
            elif is_id and text == _PADDING:
                why = "is RecBole's name of the padding; choose another id"
            else:
                continue
            self._refuse(cells.tolist().index(text), name, text, why)

    def check_complete(self, name: str, numbers: NDArray[Any]) -> None:
        """Refuse a column of numbers with an empty cell.

        Args:
            name: The column.
            numbers: Its cells, shape ``(rows,)``.

        Raises:
            UserError: Naming the first row without a number.
        """
        if len(missing := np.flatnonzero(np.isnan(numbers))):
            self._refuse(int(missing[0]), name, "", "is empty; write a number or remove the row")

    def _refuse(self, row: int, name: str, cell: str, why: str) -> NoReturn:
        """Raise the error for a cell; ``row`` counts rows from 0, without the header and empty lines."""
        with self._open() as lines:
            records = read_records(lines, self._separator, _never, quoted=False)
            line = next(islice(records, row + 1, None))[0]
        shown = f" {cell[:80]!r}" if cell else ""
        raise UserError(f"{self.path}: line {line}: {name}{shown} {why}")

    def _check_length(self, line: int, cells: list[str]) -> None:
        n_columns = len(self.fields)
        if len(cells) < n_columns or any(cells[n_columns:]):  # separators at the end of a row mean nothing
            raise UserError(
                f"{self.path}: line {line}: {len(cells)} cells, but line 1 names {n_columns} columns; "
                f"write one cell for each column, separated by field_separator={self._separator!r}"
            )

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        try:
            with self.path.open(encoding=self._encoding, newline="\n") as lines:
                yield lines
        except UnicodeError:
            text = f"{self.path}: the text is not in the encoding {self._encoding.removesuffix('-sig')!r}"
            raise UserError(f"{text}; save the file as UTF-8, or set `encoding`") from None
        except LookupError as error:
            if isinstance(error, IndexError | KeyError):
                raise
            raise UserError(
                f"encoding={self._encoding!r}: Python knows no such encoding; use utf-8"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); check the file") from error


class _Texts:
    """Cells of text; equal cells share one Python string, so memory grows with the number of ids."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._blocks: list[NDArray[Any]] = []

    def add(self, cells: Sequence[str] | NDArray[Any]) -> None:
        array = np.empty(len(cells), dtype=object)
        array[:] = cells
        codes, found = pd.factorize(array)
        shared = np.empty(len(found), dtype=object)
        shared[:] = [self.known.setdefault(text, text) for text in found]
        self._blocks.append(shared[codes])

    def array(self) -> NDArray[Any]:
        return np.concatenate(self._blocks) if self._blocks else np.empty(0, dtype=object)


class _Numbers:
    """Cells with numbers as float64, or as int64 where float64 cannot hold whole numbers."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[Any]] = []

    def add(self, cells: Sequence[str] | NDArray[Any]) -> int | None:
        """Add numbers, or their text; return the place of the first text without a number."""
        if isinstance(cells, np.ndarray):
            self._blocks.append(cells)
            return None
        try:
            numbers = np.array(list(map(float, cells)), dtype=np.float64)
        except ValueError:
            numbers = np.array([_number(cell) for cell in cells], dtype=np.float64)
        odd = np.flatnonzero(~np.isfinite(numbers))
        for at in odd.tolist():
            if cells[at].strip().lower() not in _MISSING:
                return int(at)
        if "_" in "".join(cells):  # Python takes 1_000 for a number
            return next(at for at, cell in enumerate(cells) if "_" in cell)
        self._blocks.append(_whole(cells, numbers))
        return None

    def array(self) -> NDArray[Any]:
        """Return all cells: int64 if a block needs it and no block has other numbers, else float64."""
        blocks = self._blocks or [np.empty(0)]
        needs_int = any(block.dtype == np.int64 for block in blocks)
        if needs_int and all((block == np.trunc(block)).all() for block in blocks):
            blocks = [block.astype(np.int64) for block in blocks]
        return np.concatenate(blocks)


def _number(cell: str) -> float:
    """Return a number; NaN for a missing number and for text that is no number."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _whole(cells: Sequence[str], numbers: NDArray[np.float64]) -> NDArray[Any]:
    """Return whole numbers as int64 if float64 has rounded one of them."""
    if not (np.abs(numbers) >= _EXACT).any():
        return numbers
    try:
        return np.array(list(map(int, cells)), dtype=np.int64)
    except (ValueError, OverflowError):
        return numbers


def _never(line: int, reason: str) -> NoReturn:
    raise AssertionError(f"line {line}: {reason}")  # without quotation marks no record is broken
