"""A table of one's own: interactions in a csv file, and another for the items where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_siger.errors import UserError
from recbole_siger.prepare.interactions import Interactions, Row, collect, number, read_token, timestamp
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.pipeline import Source
from recbole_siger.prepare.records import Rejected, read_rows, required_column

__all__ = ["Columns", "Table"]

SEPARATORS = {"tab": "\t", r"\t": "\t"}
"""Words for separators that a shell makes hard to write."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns. Ratings and times are used where the table has them, unless one is asked for here."""

    user: str
    item: str
    rating: str | None = None
    time: str | None = None


class Table(Source):
    """Interactions with a header, and items with a header whose other columns are texts.

    Args of the constructor:
        inter: Table of interactions.
        items: Table of items, or None.
        columns: Names of columns.
        sep: Separator of both; None takes a tab for ``.tsv`` and atomic files, else a comma.
    """

    def __init__(self, inter: Path, items: Path | None, columns: Columns, sep: str | None) -> None:
        for path in (inter, items):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: no such file; correct the path.")
        self._inter, self._items, self._columns, self._sep = inter, items, columns, sep

    def folder(self) -> Path:
        """See ``Source``."""
        return self._inter.parent

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        return {"kind": "csv", "timestamp": "as given; dates as seconds since 1970"}

    def inputs(self) -> list[Path]:
        """See ``Source``."""
        return [self._inter, self._items] if self._items else [self._inter]

    def _separator(self, path: Path) -> str:
        if self._sep is not None:
            sep = SEPARATORS.get(self._sep, self._sep)
            if len(sep) != 1:
                raise UserError(f"sep={self._sep!r}: expected one character, or tab")
            return sep
        return "\t" if {".tsv", ".inter", ".item"} & set(path.suffixes) else ","

    def _open(self, path: Path, rejected: Rejected) -> tuple[list[str], Iterator[tuple[int, list[str]]], str]:
        """Return header, rows, and what to do about a missing column."""
        sep = self._separator(path)
        rows, before = read_rows(path, rejected, sep=sep), len(rejected.rows)
        _, header = next(rows, (0, []))
        for _, line, reason in rejected.rows[before:]:  # else a row would be taken for the header
            raise UserError(f"{path}: line {line:,}: {reason}; write a header, in UTF-8.")
        if not header:
            raise UserError(f"{path}: is empty; write a header and one row a line.")
        mend = f"name the column, or the separator with --sep (it is {sep!r})."
        return header, rows, mend

    def interactions(self, rejected: Rejected) -> Interactions:
        """See ``Source``."""
        header, rows, mend = self._open(self._inter, rejected)
        names = self._columns
        user, item = (required_column(self._inter, header, name, mend) for name in (names.user, names.item))
        rating = self._optional(header, names.rating, "rating", mend)
        time = self._optional(header, names.time, "timestamp", mend)

        def read(cells: list[str]) -> Row:
            return (
                read_token(names.user, cells[user]),
                read_token(names.item, cells[item]),
                None if rating is None else number(header[rating], cells[rating]),
                None if time is None else timestamp(header[time], cells[time]),
            )

        return collect(self._inter, rows, read, rejected)

    def _optional(self, header: list[str], asked: str | None, usual: str, mend: str) -> int | None:
        """Return the place of a column that must be there if it was asked for, else None if it is not."""
        known = [name.strip().partition(":")[0] for name in header]
        if asked is None and usual not in known:
            return None
        return required_column(self._inter, header, asked or usual, mend)

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``.

        Raises:
            UserError: If a column is missing, two have one name, or an item has two rows.
        """
        if self._items is None:
            return None
        header, rows, mend = self._open(self._items, rejected)
        place = required_column(self._items, header, self._columns.item, mend)
        names = [re.sub(r"\W+", "_", name.strip().partition(":")[0]) for name in header]
        texts = [name for column, name in enumerate(names) if column != place]
        if "" in names or len({*texts, "item_id"}) != len(names):
            raise UserError(f"{self._items}: columns {', '.join(header)}; give each a name of its own.")
        table = ItemTable(dict.fromkeys(texts, "token_seq"))
        lines: dict[str, int] = {}
        for line, cells in rows:
            try:
                item = read_token(self._columns.item, cells[place])
            except ValueError as error:
                rejected.add(self._items, line, str(error))
                continue
            if item in lines:
                raise UserError(
                    f"{self._items}: line {line:,}: item {item!r} stands in line {lines[item]:,} already; "
                    "keep one line an item."
                )
            lines[item] = line
            if item in kept:
                table.add(item, dict(zip(names, cells, strict=True)))
        if not table.rows:
            raise UserError(
                f"{self._items}: none of its {len(lines):,} items has an interaction that is kept; write the "
                f"item ids of {self._inter.name}."
            )
        return table
