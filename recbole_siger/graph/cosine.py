"""Rows of a feature matrix as directions, and their cosines in float64, within a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from recbole_siger.graph.ordering import first_k_per_row

__all__ = ["STEP", "UnitRows"]

# Cosines are compared and stored as multiples of this (about 1e-9): float64 sums in any order agree on it. A
# power of two, so that common cosines such as 1/2 lie on a step and not between two.
STEP = 2.0**-30
BLOCK_BYTES = 2**20
PAIR_BYTES = 2**19
# Outside this range squares could overflow or vanish; such features are scaled first.
TINY, HUGE = 1e-15, 1e15


class UnitRows:
    """The rows of a matrix that are not zero, scaled to length 1 when they are asked for.

    The matrix is not copied, unless it has fewer bits than float32 or numbers whose squares overflow.

    Args:
        features: Shape ``(I, F)``, float, finite.

    Attributes:
        index: Which rows of the matrix these are, shape ``(V,)``, int64, ascending.
        inverse_norm: One over their lengths, shape ``(V,)``, float64.

    Raises:
        ValueError: If a number is not finite.
    """

    def __init__(self, features: Tensor) -> None:
        if features.dtype not in (torch.float32, torch.float64):
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
        """Return the rows at ``kept``, positions among these."""
        part = object.__new__(type(self))
        part.features, part.index, part.inverse_norm = (
            self.features,
            self.index[kept],
            self.inverse_norm[kept],
        )
        return part

    def unit(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Write a few rows at length 1 into ``out``, float32 or float64, ``(stop - start, F)``; return it."""
        if out.dtype == self.features.dtype:
            torch.index_select(self.features, 0, self.index[start:stop], out=out)
        else:
            out.copy_(self.features[self.index[start:stop]])
        return out.mul_(self.inverse_norm[start:stop, None].to(out.dtype))

    def cosines(self, i: Tensor, j: Tensor, *, compiled: bool = False) -> Tensor:
        """Return the cosines of pairs of rows in units of ``STEP``, ``(n,)`` each, int64.

        ``compiled`` takes the loop of numba, on the CPU: several times as fast, once it is compiled.
        """
        scale = self.inverse_norm[i] * self.inverse_norm[j]
        i, j = self.index[i], self.index[j]
        if compiled:
            from recbole_siger.graph.compiled import dot_products

            dot = torch.from_numpy(dot_products(self.features.numpy(), i.numpy(), j.numpy()))
        else:
            size = max(1, PAIR_BYTES // (16 * self.features.shape[1]))
            dot, x = torch.empty_like(scale), self.features
            for part, a, b in zip(dot.split(size), i.split(size), j.split(size), strict=True):
                torch.sum(x[a].double() * x[b].double(), dim=1, out=part)
        return ((dot * scale).clamp(-1, 1) / STEP).round().long()

    def duplicates(self, k: int) -> tuple[Tensor, Tensor]:
        """Find the rows that can be neighbours of others, and for every row the first one equal to it.

        Of equal rows only the ``k`` first can be: each of them is as similar to anything and has a lower id.

        Returns:
            Positions of the rows that can be, ``(<= V,)``, ascending; the first equal row of each, ``(V,)``.
        """
        group = self._first_equal()
        return first_k_per_row(group, k).sort().values, group

    def _first_equal(self) -> Tensor:
        """Return the position of the first row that equals each, ``(V,)``."""
        order = torch.argsort(key := self._keys(), stable=True)
        leader = torch.empty_like(order)
        leader[order] = order[torch.searchsorted(key[order], key[order])]
        # Rows with the same key are almost surely equal; compared, they are so surely.
        (suspect,) = (leader != torch.arange(len(order), device=order.device)).nonzero(as_tuple=True)
        size = max(1, BLOCK_BYTES // (self.features[0].nbytes or 1))
        for some in suspect.split(size):
            a, b = self.features[self.index[some]], self.features[self.index[leader[some]]]
            different = some[(a != b).any(dim=1)]
            leader[different] = different
        return leader

    def _keys(self) -> Tensor:
        """Hash each row by its bits, ``(V,)``, int64; 0.0 and -0.0 are the same."""
        integer = torch.int32 if self.features.dtype == torch.float32 else torch.int64
        generator = torch.Generator().manual_seed(0)
        bits = torch.iinfo(integer)
        weight = torch.randint(bits.min, bits.max, (self.features.shape[1],), generator=generator)
        weight = weight.to(self.features.device, integer)
        key = _by_rows(self.features, lambda x: ((x + 0.0).view(integer) * weight).sum(dim=1), torch.int64)
        return key[self.index]


def _row_norms(matrix: Tensor) -> Tensor:
    return _by_rows(matrix, lambda x: x.double().norm(dim=1))


def _by_rows(matrix: Tensor, compute: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Compute one number a row, float64 by default, from blocks of rows that are small in float64."""
    # Written into one array: results kept one by one would lie between the blocks' temporaries and keep the
    # allocator from using their memory again.
    result = torch.empty(len(matrix), dtype=dtype or torch.float64, device=matrix.device)
    size = max(1, BLOCK_BYTES // (8 * matrix.shape[1]))
    for part, rows in zip(result.split(size), matrix.split(size), strict=True):
        part.copy_(compute(rows))
    return result
