"""Texts of the items in a run folder: ``items.tsv``, cleaned and of bounded size."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recbole_siger.common.files import atomic_path
from recbole_siger.common.tables import open_table
from recbole_siger.errors import UserError

__all__ = ["MAX_TEXT_BYTES", "copy_item_texts", "find_item_table", "read_item_texts", "sanitise"]

MAX_TEXT_BYTES = 256 * 2**20
"""Largest ``items.tsv`` that is written or read."""
MAX_CELL, MAX_COLUMNS = 1000, 16
_FIRST = ("title", "name")


def sanitise(text: str, limit: int = MAX_CELL) -> str:
    r"""Put a text on one line: control characters become blanks, and the text is cut after ``limit``.

    >>> sanitise("Baby\tblue \x1b[31m\n bib")
    'Baby blue [31m bib'
    """
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text)
    text = " ".join(text.split())[:limit]
    return f" {text}" if text.startswith('"') else text  # readers of tables would look for the end of a quote


def find_item_table(folder: Path, name: str, id_field: str) -> tuple[Path, str] | None:
    """Return the item table of a dataset folder and its column of ids, or None if there is no table."""
    for file, column in ((folder / "items.tsv", "item_id"), (folder / f"{name}.item", id_field)):
        if file.is_file():
            return file, column
    return None


def copy_item_texts(source: Path, id_column: str, tokens: Sequence[str], target: Path) -> int:
    """Write the texts of a run's items, one line an item in the order of the ids, the title first.

    Args:
        source: ``items.tsv`` or ``<name>.item``.
        id_column: Column of the raw tokens.
        tokens: Raw tokens of the items in the order of their ids; the first is the padding item.
        target: The file to write.

    Returns:
        How many items have a text. If there are none, no file is written.

    Raises:
        UserError: If ``source`` is damaged.
    """
    table = open_table(source, id_column, [])
    names = [name for name in table.header if name != id_column]
    names = sorted(names, key=lambda name: name not in _FIRST)[:MAX_COLUMNS]
    limit = min(MAX_CELL, MAX_TEXT_BYTES // (4 * max(1, len(tokens) * len(names))))
    wanted = set(tokens[1:])
    found = {
        token: [sanitise(row[name], limit) for name in names]
        for token, row in table.all_rows()
        if token in wanted
    }
    if names and any(any(cells) for cells in found.values()):
        empty = [""] * len(names)
        lines = (["item_id", *names], *([token, *found.get(token, empty)] for token in tokens[1:]))
        _write(target, lines)
        return len(found)
    return 0


def _write(target: Path, lines: Iterable[Sequence[str]]) -> None:
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        # A quotation mark at the start of an id would open a cell over many lines.
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(lines)


def read_item_texts(file: Path, known: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Return ``{item: {column: text}}`` of the items in ``known``; empty if there is no file.

    A column ``item`` is called ``item_text``, because ``item`` is the id in tables of recommendations.

    Raises:
        UserError: If the file is too large or damaged.
    """
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise UserError(f"{file}: is larger than {MAX_TEXT_BYTES:,} bytes; delete it, texts are optional")
    rows = open_table(file, "item_id", []).all_rows()
    return {
        token: {
            "item_text" if name == "item" else name: sanitise(text)
            for name, text in row.items()
            if name != "item_id"
        }
        for token, row in rows
        if token in known
    }
