"""Texts of items or users: ``<name>.item`` for RecBole, ``items.tsv`` for text encoders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ItemTable", "clean", "flatten"]


@dataclass
class ItemTable:
    """Texts of items, or of users: one value for each column, "" if it is unknown."""

    columns: Mapping[str, str]
    """Column -> its type in an atomic file, ``token`` or ``token_seq``."""
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)
    noun: str = "item"
    """What a row describes: ``item`` or ``user``."""

    def add(self, token: str, values: Mapping[str, Any]) -> None:
        """Store the values of an item or user, flattened and cleaned."""
        self.rows[token] = tuple(clean(flatten(values.get(column))) for column in self.columns)

    def facts(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the manifest's facts: the number of the dataset's rows with a value in each column."""
        known = [self.rows[token] for token in tokens if token in self.rows]
        counts = [sum(bool(row[place]) for row in known) for place in range(len(self.columns))]
        return {"with_record": len(known), "columns": dict(zip(self.columns, counts, strict=True))}

    def write(self, stem: Path, tokens: Sequence[str]) -> None:
        """Write ``<stem>.item`` and ``items.tsv`` beside it, one line for each item, in the dataset's order.

        An item without a record has empty cells. Users have ``<stem>.user`` and ``users.tsv``.
        """
        types = [f"{self.noun}_id:token", *(f"{column}:{kind}" for column, kind in self.columns.items())]
        empty = ("",) * len(self.columns)
        rows = [(token, *self.rows.get(token, empty)) for token in tokens]
        _write(stem.with_name(f"{stem.name}.{self.noun}"), [types, *rows])
        _write(stem.with_name(f"{self.noun}s.tsv"), [(f"{self.noun}_id", *self.columns), *rows])


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.writelines("\t".join(row) + "\n" for row in rows)


def clean(text: str) -> str:
    r"""Return a text in the form of a cell of a tab separated table, on one line.

    Runs of white space become one blank. A text that begins with a quotation mark gets a blank at its start.
    Without the blank, readers of quoted cells, such as RecBole's, would search for the closing mark. Unpaired
    surrogates, which JSON can encode and UTF-8 cannot, become replacement characters.

    >>> clean('"Baby\ttalk"\n 2')
    ' "Baby talk" 2'
    """
    text = re.sub("[\ud800-\udfff]", "\ufffd", " ".join(text.replace("\0", " ").split()))
    return f" {text}" if text.startswith('"') else text


def flatten(value: Any) -> str:
    """Return the distinct texts of nested lists, in their order, separated by blanks.

    >>> flatten([["Baby", "Feeding"], ["Baby", "Gifts"]])
    'Baby Feeding Gifts'
    """
    return " ".join(dict.fromkeys(_texts(value)))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif value is not None and not isinstance(value, dict) and str(value).strip():
        yield str(value)
