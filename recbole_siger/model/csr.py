"""Compressed sparse matrices and how each kind of device multiplies by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recbole_siger.model.device import Choices

__all__ = ["Csr"]


LONGEST_WHOLE = 4
"""Rows up to this number of pieces stay whole if no row is longer; a second kernel would take more time."""


class _Pieces(NamedTuple):
    """Rows cut into pieces; int32, because half the bytes are read."""

    col: Tensor  # (nnz,)
    first: Tensor  # (n_pieces + 1,), the first entry of each piece, and nnz
    order: Tensor | None  # (n_pieces,), 0, 1, ...; None: each piece is a row
    row_first: Tensor | None  # (n + 1,), the first piece of each row, and n_pieces


@dataclass(frozen=True)
class Csr:
    """A compressed sparse matrix of shape ``(len(crow) - 1, n_columns)``.

    Attributes:
        crow: First entry of each row, and the number of entries, shape ``(n + 1,)``, int64.
        col: Column of each entry, shape ``(nnz,)``, int64.
        val: Value of each entry, shape ``(nnz,)``.
        n_columns: Number of columns.
        stored: What a device needs of the pattern, made at the first product on the device and kept here.
    """

    crow: Tensor
    col: Tensor
    val: Tensor
    n_columns: int
    stored: dict[Any, Any]

    def times(self, x: Tensor, how: Choices) -> Tensor:
        """Multiply: ``(n_columns, d)`` to ``(n, d)``."""
        if how.product == "csr":
            return self.times_by_csr(x)
        return self.times_by_pieces(x, how.bag_size) if how.static else self.times_by_bags(x)

    def times_by_bags(self, x: Tensor) -> Tensor:
        """Multiply with one bag for each row. On CPU 12 times as fast as torch.sparse.mm of a COO tensor."""
        value = self.val.to(x.dtype)
        return functional.embedding_bag(
            self.col, x, self.crow, mode="sum", per_sample_weights=value, include_last_offset=True
        )

    def times_by_pieces(self, x: Tensor, size: int) -> Tensor:
        """Multiply with bags of at most ``size`` entries, and sum the bags of a row.

        On CUDA this is one kernel, or two, whose threads sum the entries of a bag in order: the result is the
        same in every run, which cuSPARSE promises for its slowest algorithm alone. cuSPARSE also launches a
        kernel that partitions the rows. A row of a popular item has hundreds of entries; as one bag, this row
        would take longer than all others together.
        """
        pieces = self._pieces(size)
        value = self.val.to(x.dtype)
        parts = functional.embedding_bag(
            pieces.col, x, pieces.first, mode="sum", per_sample_weights=value, include_last_offset=True
        )
        if pieces.order is None:
            return parts
        return functional.embedding_bag(
            pieces.order, parts, pieces.row_first, mode="sum", include_last_offset=True
        )

    def times_by_csr(self, x: Tensor) -> Tensor:
        """Multiply by a CSR tensor with int32 indices, with cuSPARSE on CUDA."""
        key = "csr", self.col.device
        if key not in self.stored:
            self.stored[key] = self.crow.int(), self.col.int()
        shape, value = (len(self.crow) - 1, self.n_columns), self.val.to(x.dtype)
        crow, col = self.stored[key]
        return torch.sparse_csr_tensor(crow, col, value, shape, check_invariants=False) @ x

    def _pieces(self, size: int) -> _Pieces:
        key = "pieces", size, self.col.device
        if key not in self.stored:
            self.stored[key] = _cut_rows(self.crow, self.col, size)
        pieces: _Pieces = self.stored[key]
        return pieces


def _cut_rows(crow: Tensor, col: Tensor, size: int) -> _Pieces:
    """Cut rows into pieces of at most ``size`` entries."""
    col, count = col.int(), crow.diff()
    if not len(col) or int(count.max()) <= LONGEST_WHOLE * size:
        return _Pieces(col, crow.int(), None, None)
    n_pieces = (count + size - 1) // size
    row_first = functional.pad(n_pieces.cumsum(0), (1, 0))
    order = torch.arange(int(row_first[-1]), device=crow.device)
    row = torch.arange(len(count), device=crow.device).repeat_interleave(n_pieces)
    first = crow[row] + (order - row_first[row]) * size
    return _Pieces(col, torch.cat((first, crow[-1:])).int(), order.int(), row_first.int())
