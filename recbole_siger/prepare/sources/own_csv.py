"""The user's own tables: a csv file of interactions, and optionally csv files of items and of users."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_siger.common.records import TableFormat, column_index, column_names, table_format
from recbole_siger.errors import UserError
from recbole_siger.prepare.interactions import Interactions, Row, collect, number, read_token, timestamp
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.pipeline import Source
from recbole_siger.prepare.records import Rejected, read_rows

__all__ = ["Columns", "Table"]

SEPARATORS = {"tab": "\t", r"\t": "\t"}
"""Names of separators that are hard to type in a shell."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns. Ratings and times are used if the table has them; a column named here must exist."""

    user: str
    item: str
    rating: str | None = None
    time: str | None = None


class Table(Source):
    """Interactions, items and users, each with a header; the other columns of items and users are texts.

    Args of the constructor:
        inter: Table of interactions.
        items: Table of items, or None.
        users: Table of users, or None.
        columns: Names of columns.
        sep: Separator of all tables; by default a tab in ``.tsv``, ``.txt`` and atomic files, else a comma.
    """

    def __init__(
        self, inter: Path, items: Path | None, users: Path | None, columns: Columns, sep: str | None
    ) -> None:
        for path in (inter, items, users):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: no such file; correct the path.")
        self._inter, self._items, self._users = inter, items, users
        self._columns, self._sep = columns, sep

    def folder(self) -> Path:
        """See ``Source``."""
        return self._inter.parent

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        return {"kind": "csv", "timestamp": "as given; dates as seconds since 1970"}

    def inputs(self) -> list[Path]:
        """See ``Source``."""
        return [path for path in (self._inter, self._items, self._users) if path is not None]

    def _format(self, path: Path) -> TableFormat:
        by_name = table_format(path) or TableFormat(",")
        if self._sep is None:
            return by_name
        sep = SEPARATORS.get(self._sep, self._sep)
        if len(sep) != 1:
            raise UserError(f"sep={self._sep!r}: expected one character, or tab")
        return by_name._replace(sep=sep)

    def _open(self, path: Path, rejected: Rejected) -> tuple[list[str], Iterator[tuple[int, list[str]]], str]:
        """Return names of columns, rows, and the fix for a missing column."""
        form = self._format(path)
        rows, before = read_rows(path, rejected, sep=form.sep, quoted=form.quoted), len(rejected.rows)
        _, header = next(rows, (0, []))
        for _, line, reason in rejected.rows[before:]:  # the header itself is broken
            raise UserError(f"{path}: line {line:,}: {reason}; write a header, in UTF-8.")
        if not header:
            raise UserError(f"{path}: is empty; write a header, and one line for each row.")
        fix = f"name the column, or the separator with --sep (it is {form.sep!r})."
        return column_names(header, typed=True), rows, fix

    def interactions(self, rejected: Rejected) -> Interactions:
        """See ``Source``."""
        header, rows, fix = self._open(self._inter, rejected)
        names = self._columns
        user, item = (column_index(self._inter, header, name, fix) for name in (names.user, names.item))
        rating = self._optional(header, names.rating, "rating", fix)
        time = self._optional(header, names.time, "timestamp", fix)

        def read(cells: list[str]) -> Row:
            return (
                read_token(names.user, cells[user]),
                read_token(names.item, cells[item]),
                None if rating is None else number(header[rating], cells[rating]),
                None if time is None else timestamp(header[time], cells[time]),
            )

        return collect(self._inter, rows, read, rejected)

    def _optional(self, header: list[str], asked: str | None, usual: str, fix: str) -> int | None:
        """Return the index of the given column, or of the usual column; None if neither exists."""
        if asked is None and usual not in header:
            return None
        return column_index(self._inter, header, asked or usual, fix)

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``.

        Raises:
            UserError: If a column is missing, two columns have one name, or an item has two rows.
        """
        return self._texts(self._items, self._columns.item, "item", kept, rejected)

    def users(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``.

        Raises:
            UserError: As :meth:`items`.
        """
        return self._texts(self._users, self._columns.user, "user", kept, rejected)

    def _texts(
        self, path: Path | None, id_column: str, noun: str, kept: set[str], rejected: Rejected
    ) -> ItemTable | None:
        """Read the texts of the items or users in ``kept``."""
        if path is None:
            return None
        header, rows, fix = self._open(path, rejected)
        place = column_index(path, header, id_column, fix)
        names = [re.sub(r"\W+", "_", name) for name in header]
        texts = [name for column, name in enumerate(names) if column != place]
        if "" in names or len({*texts, f"{noun}_id"}) != len(names):
            raise UserError(f"{path}: columns {', '.join(header)}; give each column a different name.")
        table = ItemTable(dict.fromkeys(texts, "token_seq"), noun=noun)
        lines: dict[str, int] = {}
        for line, cells in rows:
            try:
                token = read_token(id_column, cells[place])
            except ValueError as error:
                rejected.add(path, line, str(error))
                continue
            if token in lines:
                raise UserError(
                    f"{path}: line {line:,}: {noun} {token!r} is already in line {lines[token]:,}; "
                    f"keep one line for each {noun}."
                )
            lines[token] = line
            if token in kept:
                table.add(token, dict(zip(names, cells, strict=True)))
        if not table.rows:
            raise UserError(
                f"{path}: none of its {len(lines):,} {noun}s has an interaction that is kept; write the "
                f"{noun} ids of {self._inter.name}."
            )
        return table
