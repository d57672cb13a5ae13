"""Finished shards of an extraction on disk: each shard is complete or absent, so an extraction can resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from recbole_siger.common.files import atomic_path
from recbole_siger.errors import UserError

__all__ = ["WRITING", "Shard", "ShardStore"]

WRITING = "writing"
"""Empty file beside the shards: the files that are made from the shards may exist in part."""


@dataclass(frozen=True)
class Shard:
    """The result of one slice of the items.

    Attributes:
        number: Number of the slice.
        ids: Items with a row, in the order of the table.
        rows: Shape ``(len(ids), dim)``, float32.
        missing: Items without a row, and the reasons.
        digest: SHA-256 of the ids and the inputs.
    """

    number: int
    ids: list[str]
    rows: NDArray[np.float32]
    missing: list[tuple[str, str]]
    digest: str

    def to_bytes(self) -> bytes:
        """Return the shard as a safetensors file; equal shards give equal bytes."""
        told = {"number": self.number, "ids": self.ids, "missing": self.missing, "digest": self.digest}
        return save({"rows": np.ascontiguousarray(self.rows)}, {"shard": json.dumps(told)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Shard:
        """Read what :meth:`to_bytes` wrote."""
        n_header = int.from_bytes(data[:8], "little")
        told = json.loads(json.loads(data[8 : 8 + n_header])["__metadata__"]["shard"])
        missing = [(item, reason) for item, reason in told["missing"]]
        return cls(told["number"], told["ids"], load(data)["rows"], missing, told["digest"])


class ShardStore:
    """The folder of an extraction's shards."""

    def __init__(self, folder: Path, n_shards: int) -> None:
        self.folder, self.n_shards = folder, n_shards

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.safetensors"

    def todo(self) -> list[int]:
        """Return the numbers of the missing shards."""
        return [number for number in range(self.n_shards) if not self._file(number).is_file()]

    def put(self, shard: Shard) -> None:
        """Write a shard, complete or not at all."""
        with atomic_path(self._file(shard.number)) as temporary:
            temporary.write_bytes(shard.to_bytes())

    def __iter__(self) -> Iterator[Shard]:
        """Yield every shard, in order; one shard is in memory at a time.

        Raises:
            UserError: If a file is damaged.
        """
        for number in range(self.n_shards):
            try:
                yield Shard.from_bytes(self._file(number).read_bytes())
            except (SafetensorError, ValueError, KeyError) as error:
                raise UserError(
                    f"{self._file(number)}: is damaged; delete it and run the command again."
                ) from error

    def begin_writing(self) -> None:
        """Record that files are made from the shards, so that after a kill these files can be replaced."""
        (self.folder / WRITING).touch()

    def discard(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
