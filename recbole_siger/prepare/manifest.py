"""The manifest of a dataset folder: checksums of the inputs, and counts compared with published counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_siger.common.files import real_path, sha256

__all__ = ["PUBLISHED", "Counts", "compare_published", "describe_inputs", "manifest_text", "published_line"]

PUBLISHED_KEYS = ("users", "items", "interactions")

PUBLISHED = {
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "clothing": (39_387, 23_033, 278_677),
    "electronics": (192_403, 63_001, 1_689_188),
    "microlens": (98_129, 17_228, 705_174),
    "ml-100k": (943, 1_682, 100_000),
    "ml-1m": (6_040, 3_706, 1_000_209),
}
"""Users, items and interactions as papers and publishers print them."""


@dataclass(frozen=True)
class Counts:
    """The size of a dataset and of its splits."""

    users: int
    items: int
    interactions: int
    train: int
    valid: int
    test: int

    @property
    def sparsity(self) -> float:
        """Share of user-item pairs without an interaction, in [0, 1].

        >>> Counts(2, 5, 4, 2, 1, 1).sparsity
        0.6
        """
        return 1.0 - self.interactions / (self.users * self.items)

    def line(self, name: str) -> str:
        """Return the counts in one line."""
        return (
            f"{name}: {self.users:,} users, {self.items:,} items, {self.interactions:,} interactions "
            f"({self.train:,} train, {self.valid:,} valid, {self.test:,} test), sparsity {self.sparsity:.4%}"
        )


def describe_inputs(source: Path, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return file -> checksum and size; no path of this machine is included.

    Args:
        source: The folder to which names are relative; a file elsewhere is listed by its name alone.
        paths: The files that were read.
    """
    inputs: dict[str, dict[str, Any]] = {}
    for path in paths:
        real, folder = real_path(path), real_path(source)
        key = real.relative_to(folder).as_posix() if real.is_relative_to(folder) else path.name
        entry = {"sha256": sha256(path), "bytes": path.stat().st_size}
        while inputs.get(key, entry) != entry:  # two files with the same name from different folders
            key += "'"
        inputs[key] = entry
    return inputs


def compare_published(known: str | None, counts: Counts) -> dict[str, Any] | None:
    """Compare the counts with ``PUBLISHED[known]``: PASS or DIFF for each; None if nothing is published."""
    if known is None:
        return None
    comparison: dict[str, Any] = {"dataset": known}
    for key, published in zip(PUBLISHED_KEYS, PUBLISHED[known], strict=True):
        status = "PASS" if getattr(counts, key) == published else "DIFF"
        comparison[key] = {"published": published, "status": status}
    return comparison


def published_line(comparison: Mapping[str, Any]) -> str:
    """Return a comparison in one line."""
    parts = [f"{key} {comparison[key]['published']:,} {comparison[key]['status']}" for key in PUBLISHED_KEYS]
    return f"published {comparison['dataset']}: {', '.join(parts)}"


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the text of a manifest file."""
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
