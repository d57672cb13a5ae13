"""Feature files written row by row: the matrix is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "feature_facts", "write_features"]

Block = tuple[list[str], NDArray[np.float32]]
"""Item tokens, and their rows, shape ``(len(tokens), F)``."""


class _RowWriter:
    """Append rows to a ``.npy`` file; the number of rows is known only at the end."""

    def __init__(self, handle: IO[bytes], dim: int) -> None:
        self._handle, self._dim, self.rows = handle, dim, 0
        self._write_header()

    def _write_header(self) -> None:
        self._handle.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._handle, header)

    def append(self, block: NDArray[np.float32]) -> None:
        self._handle.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        self.rows += len(block)

    def finish(self) -> None:
        """Write the header again; numpy reserves space in the header for a larger number of rows."""
        self._write_header()
        self._handle.seek(0, 2)


@contextmanager
def _row_writer(path: Path, dim: int) -> Iterator[_RowWriter]:
    with path.open("wb") as handle:
        writer = _RowWriter(handle, dim)
        yield writer
        writer.finish()


def write_features(stem: Path, modality: str, blocks: Iterable[Block], dim: int) -> int:
    """Write ``<stem>.<modality>.npy`` and ``.ids``, one block of rows at a time.

    Args:
        stem: ``<folder>/<name>``.
        modality: For example ``image``.
        blocks: Tokens and rows, in the order of the file.
        dim: Number of columns F.

    Returns:
        The number of written rows. Without any row, no file remains.
    """
    path = stem.with_name(f"{stem.name}.{modality}.npy")
    ids = path.with_suffix(".ids")
    with _row_writer(path, dim) as writer, ids.open("w", encoding="utf-8", newline="") as names:
        for tokens, rows in blocks:
            writer.append(rows)
            names.writelines(f"{token}\n" for token in tokens)
        n_rows = writer.rows
    if not n_rows:
        path.unlink()
        ids.unlink()
    return n_rows


def feature_facts(tokens: Sequence[str], written: int, dim: int, encoder: str) -> dict[str, Any]:
    """Return the manifest's facts of a modality; ``missing`` counts items of the dataset without a row."""
    missing = len(tokens) - written
    return {"rows": written, "dim": dim, "dtype": "float32", "missing": missing, "encoder": encoder}
