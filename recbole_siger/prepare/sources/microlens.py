"""MicroLens (Ni et al., arXiv 2309.15379): pairs, titles, and features of covers, titles and videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_siger.common.numbers import whole_number
from recbole_siger.data.features import open_features, read_blocks
from recbole_siger.errors import UserError
from recbole_siger.prepare.download import Download
from recbole_siger.prepare.feature_writer import Block, feature_facts, write_features
from recbole_siger.prepare.interactions import Interactions, Row, collect, number, read_token
from recbole_siger.prepare.item_table import ItemTable
from recbole_siger.prepare.pipeline import Source
from recbole_siger.prepare.records import Rejected, read_rows

__all__ = ["MicroLens"]

URL = "https://recsys.westlake.edu.cn/MicroLens-{0}-Dataset/"
FILES = {
    "50k": ("MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"),
    "100k": (
        "MicroLens-100k_pairs.csv",
        "MicroLens-100k_title_en.csv",
        "extracted_modality_features/MicroLens-100k_image_features_CLIPRN50.npy",
        "extracted_modality_features/MicroLens-100k_title_en_text_features_BgeM3.npy",
        "extracted_modality_features/MicroLens-100k_video_features_VideoMAE.npy",
    ),
}
MAX_FILE = 2**32
"""Bytes of a file: features of 19,738 videos, 1,024 numbers each, have 81 million."""

FEATURE = re.compile(r"MicroLens-\w+_(image|text|video)_features_(\w+)\.npy")
TITLES = ("title_en", "titles")
USER_NAMES, ITEM_NAMES = ("user", "userID", "user_id"), ("item", "videoID", "item_id")


class MicroLens(Source):
    """A folder with ``MicroLens-*_pairs.csv`` (user, item, timestamp) or ``MicroLens-*_pairs.tsv``.

    Each line of the ``.tsv`` has a user and the sequence of the user's items; positions in the sequence serve
    as times. Titles (``*_titles.csv`` or ``*_title_en.csv``) and features are used if they exist.
    """

    def __init__(self, folder: Path, edition: str | None = None) -> None:
        self._folder = folder
        pairs = [path for kind in ("csv", "tsv") for path in _glob(folder, edition, f"_pairs.{kind}")]
        editions = sorted({path.name.partition("_")[0].removeprefix("MicroLens-") for path in pairs})
        if len(editions) != 1:
            raise UserError(
                f"{folder}: expected the MicroLens-*_pairs.csv or .tsv of one edition, found "
                f"{', '.join(editions) or 'none'}; name it with --edition, or add --download."
            )
        self._pairs, self._edition = pairs[0], editions[0]
        titles = [path for kind in TITLES for path in _glob(folder, self._edition, f"_{kind}.csv")]
        self._titles = titles[0] if titles else None
        named = ((FEATURE.fullmatch(path.name), path) for path in _glob(folder, self._edition, "_*.npy"))
        self._features: dict[str, tuple[str, Path]] = {}
        for match, path in named:
            if match and self._features.setdefault(match[1], (match[2], path)) != (match[2], path):
                raise UserError(
                    f"{path}: {self._features[match[1]][1].name} has {match[1]} features too; keep one file "
                    f"of {match[1]} features in the folder."
                )

    @staticmethod
    def downloads(edition: str) -> list[Download]:
        """List the files of an edition.

        Raises:
            UserError: If the edition is unknown.
        """
        if edition not in FILES:
            raise UserError(f"edition={edition!r}: expected one of {', '.join(FILES)}")
        return [
            Download(URL.format(edition) + path, path.rpartition("/")[2], MAX_FILE) for path in FILES[edition]
        ]

    def folder(self) -> Path:
        """See ``Source``."""
        return self._folder

    def facts(self) -> dict[str, str]:
        """See ``Source``."""
        unit = "milliseconds since 1970" if self._pairs.suffix == ".csv" else "place in the user's sequence"
        return {"kind": "microlens", "edition": self._edition, "timestamp": unit}

    def inputs(self) -> list[Path]:
        """See ``Source``."""
        features = (path for _, path in self._features.values())
        return [path for path in (self._pairs, self._titles, *features) if path is not None]

    def interactions(self, rejected: Rejected) -> Interactions:
        """See ``Source``."""
        records = self._sequences(rejected) if self._pairs.suffix == ".tsv" else self._rows(rejected)
        return collect(self._pairs, records, _row, rejected)

    def _rows(self, rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        for line, cells in read_rows(self._pairs, rejected):
            if line == 1 and cells[0] not in USER_NAMES:
                raise UserError(
                    f"{self._pairs}: the first line is {','.join(cells)!r}, expected user,item,timestamp; "
                    "add the header, or separate by commas."
                )
            if line > 1:
                yield line, cells

    def _sequences(self, rejected: Rejected) -> Iterator[tuple[int, list[str]]]:
        for line, cells in read_rows(self._pairs, rejected, sep="\t", quoted=False):
            if len(cells) != 2:
                rejected.add(self._pairs, line, f"{len(cells)} cells, expected a user and the user's items")
                continue
            for place, item in enumerate(cells[1].split()):
                yield line, [cells[0], item, str(place)]

    def items(self, kept: set[str], rejected: Rejected) -> ItemTable | None:
        """See ``Source``."""
        if self._titles is None:
            return None
        table = ItemTable({"title": "token_seq"})
        for line, cells in read_rows(self._titles, rejected):
            item = cells[0].strip()
            if line == 1 and item in ITEM_NAMES:
                continue
            if item in table.rows:
                rejected.add(self._titles, line, f"item {item} is repeated; its first record is used")
            elif item in kept:
                table.add(item, {"title": cells[1:]})
        return table

    def write_features(self, stem: Path, tokens: Sequence[str], rejected: Rejected) -> dict[str, Any]:
        """See ``Source``; row i is the row of video i + 1, as the publishers number videos."""
        facts = {}
        for modality, (encoder, path) in self._features.items():
            array = open_features(path)
            largest = max((whole_number(token) or 0 for token in tokens), default=0)
            if largest > len(array):
                raise UserError(
                    f"{path}: {len(array):,} rows, but the pairs name video {largest:,}; use the features of "
                    "the same edition, row i for video i + 1."
                )
            written = write_features(stem, modality, _blocks(path, array, set(tokens)), array.shape[1])
            if written:
                facts[modality] = feature_facts(tokens, written, array.shape[1], f"{encoder}, as published")
        return facts

    def published(self, k: int) -> str | None:
        """See ``Source``; the counts are those of MMRec's 5-core of the 100k edition."""
        return "microlens" if (self._edition, k) == ("100k", 5) else None


def _glob(folder: Path, edition: str | None, rest: str) -> list[Path]:
    """Return the files of one edition, or of all editions."""
    return sorted(folder.glob(f"MicroLens-{edition or '*'}{rest}"))


def _row(cells: list[str]) -> Row:
    if len(cells) < 3:
        raise ValueError(f"{len(cells)} cells, 3 expected")
    return read_token("user", cells[0]), read_token("item", cells[1]), None, number("timestamp", cells[2])


def _blocks(path: Path, array: np.ndarray, wanted: set[str]) -> Iterator[Block]:
    """Yield the rows of the wanted videos, without rows of zeros."""
    for start, block in read_blocks(path, array, range(1, len(array) + 1)):
        tokens = [str(start + row + 1) for row in range(len(block))]
        rows = [row for row, token in enumerate(tokens) if token in wanted and block[row].any()]
        if rows:
            yield [tokens[row] for row in rows], block[rows]
