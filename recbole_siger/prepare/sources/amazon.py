"""Amazon reviews of 2014, 2018 and 2023: reviews or ratings, metadata, and the image features of 2014."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.prepare.feature_writer import feature_facts, write_features
from recbole_siger.prepare.image_features import DIM, read_image_features
from recbole_siger.prepare.interactions import Interactions, Row, collect, number, read_token
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.pipeline import Source
from recbole_siger.prepare.records import Rejected, find_file, read_json_lines, read_rows
from recbole_siger.prepare.sources.amazon_editions import EDITIONS, Edition

__all__ = ["Amazon", "edition_of"]

ENCODER = "Caffe reference model, layer fc7, as published with the data (McAuley et al., SIGIR 2015)"

PUBLISHED = {
    "Baby": "baby",
    "Sports_and_Outdoors": "sports",
    "Clothing_Shoes_and_Jewelry": "clothing",
    "Electronics": "electronics",
}
"""Category of 2014 -> the published counts of its 5-core."""

CSV_FIELDS = ("user", "item", "rating", "time")
"""Names of a csv file's columns in this module, for all editions."""


def edition_of(year: str, category: str) -> Edition:
    """Return an edition that has the category.

    Raises:
        UserError: If the edition or the category is unknown.
    """
    if year not in EDITIONS:
        raise UserError(f"edition={year!r}: expected one of {', '.join(EDITIONS)}")
    edition = EDITIONS[year]
    if category not in edition.categories:
        known = ", ".join(sorted(edition.categories))
        raise UserError(
            f"category={category!r}: the edition of {year} has no such category"
            f"{did_you_mean(category, edition.categories)} (it has {known})"
        )
    return edition


class Amazon(Source):
    """One category of one edition in a folder.

    The folder must contain reviews or ratings. Metadata and image features are optional.
    """

    def __init__(self, folder: Path, category: str, year: str) -> None:
        self._folder, self._category, self._year = folder, category, year
        self._edition = edition_of(year, category)
        names = [name.format(category) for name in self._edition.reviews]
        reviews = find_file(folder, names)
        if reviews is None:
            raise UserError(
                f"{folder}: has none of {', '.join(names)}, compressed by gzip or not; put one there, or "
                "add --download."
            )
        self._reviews = reviews
        self._meta = find_file(folder, [self._edition.meta.format(category)])
        images = folder / (self._edition.image_features or "").format(category)
        self._images = images if images.is_file() else None

    def folder(self) -> Path:
        """See ``Source``."""
        return self._folder

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        return {
            "kind": "amazon",
            "edition": self._year,
            "category": self._category,
            "timestamp": self._edition.time_unit,
        }

    def inputs(self) -> list[Path]:
        """See ``Source``."""
        return [path for path in (self._reviews, self._meta, self._images) if path is not None]

    def interactions(self, rejected: Rejected) -> Interactions:
        """See ``Source``."""
        path, edition = self._reviews, self._edition
        if path.name.removesuffix(".gz").endswith(".csv"):
            return collect(path, self._ratings(rejected), lambda record: _row(record, CSV_FIELDS), rejected)
        fields = (edition.user, edition.item, edition.rating, edition.time)
        records = read_json_lines(path, rejected, literals=edition.literals)
        return collect(path, records, lambda record: _row(record, fields), rejected)

    def _ratings(self, rejected: Rejected) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the rows of a csv file, with or without a header, under the names of ``CSV_FIELDS``."""
        edition = self._edition
        names = dict(zip((edition.user, edition.item, edition.rating, edition.time), CSV_FIELDS, strict=True))
        columns: Sequence[str] = edition.csv_columns
        for line, cells in read_rows(self._reviews, rejected):
            if line == 1 and set(names) <= set(cells):
                columns = [names.get(cell, cell) for cell in cells]
            else:
                yield line, dict(zip(columns, cells, strict=False))

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``; if the metadata repeat an item, its first record is used."""
        if self._meta is None:
            return None
        edition = self._edition
        table = ItemTable(
            {column: "token" if column == "image_url" else "token_seq" for column in edition.texts}
        )
        for line, record in read_json_lines(self._meta, rejected, literals=edition.literals):
            item = str(record.get(edition.item) or "")
            if not item:
                rejected.add(self._meta, line, f"{edition.item} is missing")
            elif item in table.rows:
                rejected.add(self._meta, line, f"item {item} is repeated; its first record is used")
            elif item in kept:
                values = {column: record.get(key) for column, key in edition.texts.items()}
                table.add(item, values | {"image_url": _image_url(record, values["image_url"])})
        return table

    def write_features(self, stem: Path, tokens: Sequence[str], rejected: Rejected) -> dict[str, Any]:
        """See ``Source``."""
        if self._images is None:
            return {}
        written = write_features(stem, "image", read_image_features(self._images, tokens, rejected), DIM)
        return {"image": feature_facts(tokens, written, DIM, ENCODER)} if written else {}

    def published(self, k: int) -> str | None:
        """See ``Source``."""
        return PUBLISHED.get(self._category) if (self._year, k) == ("2014", 5) else None


def _row(record: dict[str, Any], fields: tuple[str, str, str, str]) -> Row:
    user, item, rating, time = fields
    return (
        read_token(user, record.get(user)),
        read_token(item, record.get(item)),
        number(rating, record.get(rating)),
        number(time, record.get(time)),
    )


def _image_url(record: dict[str, Any], value: Any) -> str:
    """Return the address of an item's first image; the editions store a string, a list, or dicts."""
    entries = value or record.get("imageURL") or record.get("image")  # field names of the small files of 2018
    first = entries[0] if isinstance(entries, list) and entries else entries
    if isinstance(first, dict):
        first = first.get("large") or first.get("hi_res") or first.get("thumb")
    return first if isinstance(first, str) else ""
