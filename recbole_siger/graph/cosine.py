"""Rows of a feature matrix as directions, and their cosines in float64, within a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recbole_siger.graph.ordering import first_k_per_row

__all__ = ["STEP", "WIDE", "UnitRows"]

# Cosines are compared and stored as multiples of this step (about 1e-9): float64 sums in any order agree
# after rounding to it. The step is a power of two, so common cosines such as 1/2 are multiples of it.
STEP = 2.0**-30
BLOCK_BYTES = 2**20
PAIR_BYTES, GPU_PAIR_BYTES = 2**19, 2**28  # a GPU has no use for the cache of a CPU, and starts few kernels
# From this width on, the pairs of a row are multiplied together, at most this many at a time.
WIDE, PAIRS_OF_ROW = 1024, 32
_INTEGER = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
# Outside this range squares could overflow or underflow; such features are scaled first.
TINY, HUGE = 1e-15, 1e15


class UnitRows:
    """The non-zero rows of a matrix, scaled to length 1 on access.

    The matrix is copied only if it has fewer bits than float32 or numbers whose squares overflow.

    Args:
        features: Shape ``(I, F)``, float, finite.
        keep_few_bits: Do not copy a wide matrix that has fewer bits than float32; for :meth:`unit`,
            :meth:`cosines` and :meth:`duplicates`.

    Attributes:
        index: Indices of these rows in the matrix, shape ``(V,)``, int64, ascending.
        inverse_norm: Inverse lengths of the rows, shape ``(V,)``, float64.

    Raises:
        ValueError: If a number is not finite.
    """

    def __init__(self, features: Tensor, *, keep_few_bits: bool = False) -> None:
        has_few_bits = features.dtype not in (torch.float32, torch.float64)
        if has_few_bits and not (keep_few_bits and features.shape[1] >= WIDE):
            features = features.float()
        norm = _row_norms(features)
        if ((norm < TINY) & (norm > 0) | ~(norm < HUGE)).any() or features.dtype == torch.float64:
            largest = torch.maximum(features.amax(dim=1), -features.amin(dim=1)).double()
            bad = largest.isfinite().logical_not().nonzero()
            if len(bad):
                raise ValueError(f"features must be finite, row {bad[0].item()} is not")
            if ((largest < TINY) & (largest > 0) | (largest > HUGE)).any():
                features = features.double() / largest.where(largest > 0, 1)[:, None]
                norm = _row_norms(features)
        self.features = features
        self.index = norm.nonzero()[:, 0]
        self.inverse_norm = 1 / norm[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, kept: Tensor) -> Self:
        """Return the rows at the positions ``kept`` among these rows."""
        part = object.__new__(type(self))
        part.features, part.index, part.inverse_norm = (
            self.features,
            self.index[kept],
            self.inverse_norm[kept],
        )
        return part

    def unit(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Write a few rows scaled to length 1 into ``out``, ``(stop - start, F)``, floats; return ``out``."""
        if out.dtype == self.features.dtype:
            torch.index_select(self.features, 0, self.index[start:stop], out=out)
        else:
            out.copy_(self.features[self.index[start:stop]])
        return out.mul_(self.inverse_norm[start:stop, None].to(out.dtype))

    def cosines(self, i: Tensor, j: Tensor, *, compiled: bool = False) -> Tensor:
        """Return the cosines of pairs of rows in units of ``STEP``, ``(n,)`` each, int64.

        ``compiled`` uses the loop of numba, on the CPU: several times as fast, after compilation.
        """
        scale = self.inverse_norm[i] * self.inverse_norm[j]
        i, j = self.index[i], self.index[j]
        if compiled:
            from recbole_siger.graph.compiled import dot_products

            dot = torch.from_numpy(dot_products(self.features.numpy(), i.numpy(), j.numpy()))
        elif self.features.is_cpu and self.features.shape[1] >= WIDE:
            dot = self._wide_products(i, j)
        else:
            n_bytes = PAIR_BYTES if self.features.is_cpu else GPU_PAIR_BYTES
            size = max(1, n_bytes // (16 * self.features.shape[1]))
            dot, x = torch.empty_like(scale), self.features
            for part, a, b in zip(dot.split(size), i.split(size), j.split(size), strict=True):
                torch.sum(x[a].double() * x[b].double(), dim=1, out=part)
        return ((dot * scale).clamp(-1, 1) / STEP).round().long()

    def _wide_products(self, i: Tensor, j: Tensor) -> Tensor:
        """Return the inner products of pairs of rows of the matrix, ``(n,)``, float64.

        The pairs of one row are one product of a matrix and a vector. With wide rows, this is three times as
        fast as sums over pairs.
        """
        x, order = self.features, np.argsort(i.numpy(), kind="stable")
        row, column, dot = i.numpy()[order], j.numpy()[order], torch.empty(len(i), dtype=torch.float64)
        # A new row, or a full buffer, ends a product.
        ends = np.flatnonzero(np.diff(row, append=-1)) + 1
        parts = [
            (start, min(start + PAIRS_OF_ROW, stop))
            for first, stop in pairwise([0, *ends.tolist()])
            for start in range(first, stop, PAIRS_OF_ROW)
        ]
        buffer = torch.empty((PAIRS_OF_ROW, x.shape[1]), dtype=x.dtype)
        right, left = torch.empty_like(buffer, dtype=torch.float64), torch.empty_like(buffer[0]).double()
        lengths = range(PAIRS_OF_ROW + 1)
        takens, rights = [buffer[:n] for n in lengths], [right[:n] for n in lengths]
        # NumPy takes rows with less overhead than torch, and has no bfloat16.
        bits, taken = (table.view(_INTEGER[x.dtype]).numpy() for table in (x, buffer))
        for start, stop in parts:
            n = stop - start
            np.take(bits, column[start:stop], axis=0, out=taken[:n], mode="clip")
            left.copy_(x[row[start]])
            torch.mv(rights[n].copy_(takens[n]), left, out=dot[start:stop])
        return torch.empty_like(dot).scatter_(0, torch.from_numpy(order), dot)

    def duplicates(self, k: int) -> tuple[Tensor, Tensor]:
        """Find the rows that can be neighbours of other rows, and the first equal row of every row.

        Of equal rows, only the first ``k`` can be neighbours: they are equally similar and have lower ids.

        Returns:
            Positions of the possible neighbours, ``(<= V,)``, ascending; first equal row of each row,
            ``(V,)``.
        """
        group = self._first_equal()
        return first_k_per_row(group, k).sort().values, group

    def _first_equal(self) -> Tensor:
        """Return the position of the first row that equals each row, ``(V,)``."""
        order = torch.argsort(key := self._keys(), stable=True)
        leader = torch.empty_like(order)
        leader[order] = order[torch.searchsorted(key[order], key[order])]
        # Rows with the same key are almost certainly equal; the comparison makes it certain.
        (suspect,) = (leader != torch.arange(len(order), device=order.device)).nonzero(as_tuple=True)
        size = max(1, BLOCK_BYTES // (self.features[0].nbytes or 1))
        for some in suspect.split(size):
            a, b = self.features[self.index[some]], self.features[self.index[leader[some]]]
            different = some[(a != b).any(dim=1)]
            leader[different] = different
        return leader

    def _keys(self) -> Tensor:
        """Hash each row by its bits, ``(V,)``, int64; 0.0 and -0.0 have the same hash."""
        x = self.features
        integer = _INTEGER[x.dtype]
        total = torch.int32 if integer == torch.int16 else integer
        generator = torch.Generator("cpu").manual_seed(0)
        bits = torch.iinfo(integer)
        weight = torch.randint(bits.min, bits.max, x.shape[1:], generator=generator, device="cpu")
        weight = weight.to(x.device, integer)
        # The same buffer for each block: allocating it anew would cost more than the sums.
        buffer = torch.empty_like(x[: _block_rows(x)])

        def hashes(rows: Tensor) -> Tensor:
            product = torch.add(rows, 0.0, out=buffer[: len(rows)]).view(integer).mul_(weight)
            return product.sum(dim=1, dtype=total)

        return _by_rows(x, hashes, torch.int64)[self.index]


def _row_norms(matrix: Tensor) -> Tensor:
    return _by_rows(matrix, lambda x: torch.linalg.vector_norm(x, dim=1, dtype=torch.float64))


def _block_rows(matrix: Tensor) -> int:
    return max(1, BLOCK_BYTES // (8 * matrix.shape[1]))


def _by_rows(matrix: Tensor, compute: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Compute one number for each row, float64 by default, from blocks of rows that are small in float64."""
    # One preallocated array: separate results would lie between the blocks' temporaries and keep the
    # allocator from reusing the memory.
    result = torch.empty(len(matrix), dtype=dtype or torch.float64, device=matrix.device)
    size = _block_rows(matrix)
    for part, rows in zip(result.split(size), matrix.split(size), strict=True):
        part.copy_(compute(rows))
    return result
