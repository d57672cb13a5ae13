"""One modality of one table: inputs and encoder. Both engines run the same job."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recbole_siger.common.digests import canonical_digest
from recbole_siger.common.tables import Row, Table
from recbole_siger.extract.encoder import Encoder, EncoderSpec, UnusableInputError
from recbole_siger.extract.image import load_image_encoder
from recbole_siger.extract.shards import Shard
from recbole_siger.extract.text import load_text_encoder

__all__ = ["Job", "Source", "encode_shard", "load_encoder"]


class Source(Protocol):
    """The source of the items' inputs."""

    @property
    def stamp(self) -> str:
        """A stamp that changes when inputs outside the table change."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table to read."""
        ...

    def load(self, item: str, row: Row) -> tuple[Any, bytes]:
        """Return the encoder's input, and its bytes; raise UnusableInputError if there is no usable input."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return the manifest's facts."""
        ...


@dataclass(frozen=True)
class Job:
    """A table, its inputs, and the encoder's specification; small enough to be sent to workers."""

    table: Table
    source: Source
    spec: EncoderSpec
    normalize: bool
    threads: int | None

    def key(self, items_sha256: str, encoder: Encoder) -> str:
        """Return the digest of everything that a row depends on, 16 hexadecimal digits."""
        inputs = {
            "items": items_sha256,
            "id_col": self.table.id_col,
            "step": self.table.step,
            "source": [self.source.facts(), self.source.stamp],
            "spec": asdict(self.spec),
            "encoder": dict(encoder.facts),
            "normalize": self.normalize,
        }
        return canonical_digest(inputs)

    def payloads(self) -> Iterator[Any]:
        """Yield every usable input, to fit an encoder."""
        for item, row in self.table.all_rows():
            try:
                yield self.source.load(item, row)[0]
            except UnusableInputError:  # encode_shard reports it
                continue


def load_encoder(job: Job) -> Encoder:
    """Load the job's encoder, in this process.

    Raises:
        UserError: If the encoder is unknown, cannot be loaded, or cannot be fitted.
    """
    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    if job.spec.kind == "image":
        return load_image_encoder(job.spec)
    return load_text_encoder(job.spec, job.payloads())


def encode_shard(job: Job, encoder: Encoder, number: int) -> Shard:
    """Encode one slice; items without a usable input or row are listed in ``missing``.

    The rows do not depend on the engine or on other slices. A row that is zero or not finite carries no
    information about its item and is skipped.
    """
    found: list[str] = []
    missing: list[tuple[str, str]] = []
    digest = hashlib.sha256()

    def usable() -> Iterator[Any]:
        for item, row in job.table.rows(number):
            try:
                payload, data = job.source.load(item, row)
            except UnusableInputError as reason:
                missing.append((item, str(reason)))
                continue
            digest.update(f"{item}\n{len(data)}\n".encode())
            digest.update(data)
            found.append(item)
            yield payload

    rows = encoder.encode(usable())
    finite, nonzero = np.atleast_1d(np.isfinite(rows).all(axis=1)), np.any(rows != 0, axis=1)
    keep: NDArray[np.bool_] = finite & nonzero
    for place in np.flatnonzero(~keep):
        what = "zeros" if finite[place] else "values that are not finite"
        missing.append((found[place], f"the encoder gave {what}"))
    rows = _unit(rows[keep]) if job.normalize else rows[keep]
    ids = [item for item, kept in zip(found, keep, strict=True) if kept]
    return Shard(number, ids, rows, missing, digest.hexdigest())


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / length).astype(np.float32)
