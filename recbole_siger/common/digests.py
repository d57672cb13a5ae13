"""One short, stable name for a value: a digest of its canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_siger.common.json_files import read_json

__all__ = ["DIGITS", "TRAINED_ON", "canonical_digest", "digest_of_pairs", "trained_on"]

DIGITS = 16
"""Hexadecimal digits of an id: 64 bits. Among a million values, two share an id with probability 3e-8."""

TRAINED_ON = "training_rows_sha256"
"""Key of manifests: digest of the training rows from which user profiles were written."""


def canonical_digest(value: Any, *, digits: int = DIGITS) -> str:
    """Return the first hexadecimal digits of the SHA-256 of a value's canonical JSON.

    Canonical JSON has sorted keys, no spaces, and only ASCII characters. A value that JSON cannot hold,
    such as a path or a date, is replaced by its text. A tuple equals a list; 1 differs from 1.0.

    >>> canonical_digest({"a": 1, "b": [2]}) == canonical_digest({"b": (2,), "a": 1})
    True
    >>> canonical_digest({})
    '44136fa355b3678a'

    Args:
        value: A value of JSON: a dict, a list, text, a number, a boolean or None.
        digits: Number of digits, in [1, 64]. Use 64 if the digest protects content.
    """
    if not 1 <= digits <= 64:
        raise ValueError(f"digits={digits}: expected a number in [1, 64]")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:digits]


def digest_of_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of a set of pairs of a user and an item, by raw token and in any order.

    >>> digest_of_pairs([("a", "x"), ("b", "x")]) == digest_of_pairs([("b", "x"), ("a", "x"), ("a", "x")])
    True
    """
    lines = sorted({f"{user}\t{item}" for user, item in pairs})
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def trained_on(manifest: Path, fix: str) -> str | None:
    """Return the digest of training rows that a manifest has; None without a manifest or a digest.

    Args:
        manifest: A JSON file.
        fix: What the user can do about a damaged file.

    Raises:
        UserError: If the file is not a JSON object.
    """
    digest = read_json(manifest, {}, fix).get(TRAINED_ON) if manifest.is_file() else None
    return None if digest is None else str(digest)
