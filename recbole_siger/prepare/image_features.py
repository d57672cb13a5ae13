"""Amazon's ``image_features_*.b``: a record is a 10-byte ASIN and 4,096 float32, little-endian."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from recbole_siger.errors import UserError
from recbole_siger.prepare.feature_writer import Block
from recbole_siger.prepare.records import Rejected

__all__ = ["DIM", "read_image_features"]

DIM = 4096
RECORD = np.dtype([("asin", "S10"), ("features", "<f4", DIM)])
BLOCK_RECORDS = 256
"""Records held at a time: 4 MiB."""


def read_image_features(path: Path, items: Collection[str], rejected: Rejected) -> Iterator[Block]:
    """Yield the features of the wanted items, in the order of the file, 256 records at a time.

    A record is rejected if its values are not finite, if it repeats an item, if its ASIN is not ASCII, or if
    all its values are zero (such a row carries no information about the item).

    Args:
        path: ``image_features_<category>.b``.
        items: Items to keep.
        rejected: Collects the broken records, numbered from 1.

    Yields:
        Tokens and rows, shape ``(<= 256, 4096)``.

    Raises:
        UserError: If the file ends within a record.
    """
    size = path.stat().st_size
    if size % RECORD.itemsize:
        raise UserError(
            f"{path}: is truncated: its {size:,} bytes are not a multiple of {RECORD.itemsize:,}, the size "
            "of a record; download it again."
        )
    wanted, seen = set(items), set()
    with path.open("rb") as handle:
        start = 1
        while len(block := np.fromfile(handle, dtype=RECORD, count=BLOCK_RECORDS)):
            tokens, rows = [], []
            for row, asin in enumerate(block["asin"].tolist()):
                if not asin.isascii():
                    rejected.add(path, start + row, "ASIN is not ASCII")
                    continue
                token = asin.decode("ascii").strip()
                if token not in wanted:
                    continue
                if reason := _broken(block["features"][row], repeated=token in seen):
                    rejected.add(path, start + row, f"item {token}: {reason}")
                    continue
                seen.add(token)
                tokens.append(token)
                rows.append(row)
            if tokens:
                yield tokens, block["features"][rows]
            start += len(block)


def _broken(features: np.ndarray, *, repeated: bool) -> str:
    if repeated:
        return "is repeated; its first record is used"
    if not np.isfinite(features).all():
        return "features are not finite"
    return "" if features.any() else "features are all zero"
