"""Nearest rows by comparing all pairs in blocks.

Within one table, products of few bits propose candidates and float64 cosines decide; between two tables all
is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recbole_siger.common.progress import LoggedProgress
from recbole_siger.graph.cosine import STEP, WIDE, UnitRows
from recbole_siger.graph.ordering import first_k_per_row, positions

__all__ = ["has_fast_bfloat16", "nearest", "nearest_atoms"]

PANEL_BYTES = 24 * 2**20
# Rows that are scaled to length 1 at a time.
UNIT_ROWS = 128
# Number of candidates of a row, beyond k, from which exact cosines reduce them at once.
CROWD = 256
# bfloat16 saves time from this number of rows on, up to this share of candidates in a row: the exact cosine
# of a candidate costs as much as about a hundred products.
FEW_BITS_FROM, FEW_BITS_SHARE = 4096, 0.01
# From these shares of candidates in a row beyond k on, as of rows in one direction, more bits save time.
CROWDED = {torch.bfloat16: 1 / 2, torch.float32: 1 / 16}
# From this number of float64 multiplications on, compiling their loop saves time: compilation takes about a
# second and 120 MiB. Rows of the width ``WIDE`` or more do not need it.
COMPILE_FROM = 400_000_000
# Half the relative distance between two neighbouring numbers: the error of rounding to a type.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
# Bytes of a block of cosines between two tables, and of a block of rows in float64.
CROSS_BYTES = 32 * 2**20
NEVER = -(2**62)
INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def nearest(rows: UnitRows, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` nearest other rows of each row, by comparing all pairs.

    Returns:
        Pairs (row, neighbour), ordered in each row, ``(2, n)``; their cosines in units of ``STEP``, ``(n,)``.
    """
    types = [torch.float32]
    if len(rows) >= FEW_BITS_FROM and has_fast_bfloat16(rows.index.device):
        types.insert(0, torch.bfloat16)
    for dtype in types:
        with suppress(_ImpreciseError):
            return _Search(rows, k, chunk_size, dtype).run()
    parts = []
    for some, found, step in nearest_atoms(rows, rows, k, same=True):
        row, place = (found < len(rows)).nonzero(as_tuple=True)
        parts.append(torch.stack((some.start + row, found[row, place], step[row, place])))
    row, other, step = torch.cat(parts, dim=1)
    return torch.stack((row, other)), step


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether products of bfloat16 are faster than products of float32; False for a GPU."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)


class _ImpreciseError(Exception):
    """There are too many candidates, or a product errs by more than its type allows (TF32, autocast)."""


@dataclass
class _Candidates:
    """Pairs of a block's rows with other rows, and bounds of their cosines; equal bounds are the cosine."""

    row: Tensor
    column: Tensor
    low: Tensor
    high: Tensor
    parts: list[tuple[Tensor, ...]] = field(default_factory=list)
    n_waiting: int = 0
    n_kept: int = 0

    @classmethod
    def none(cls, device: torch.device) -> Self:
        ids = torch.empty(0, dtype=torch.int64, device=device)
        return cls(ids, ids, ids.double(), ids.double())

    def add(self, *part: Tensor) -> None:
        self.parts.append(part)
        self.n_waiting += len(part[0])

    def gather(self) -> None:
        columns = zip((self.row, self.column, self.low, self.high), *self.parts, strict=True)
        self.row, self.column, self.low, self.high = (torch.cat(parts) for parts in columns)
        self.parts, self.n_waiting = [], 0

    def ranked(self, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions by row, highest lower bound first; start and length of each row in them."""
        key = torch.sub(self.row, self.low, alpha=0.25)  # bounds are between -2 and 2
        # NumPy sorts with vector instructions, several times as fast as torch.
        order = torch.from_numpy(np.argsort(key.numpy())) if key.is_cpu else torch.argsort(key)
        count = torch.bincount(self.row, minlength=n_rows)
        return order, count.cumsum(0) - count, count

    def select(self, kept: Tensor) -> None:
        self.row, self.column = self.row.index_select(0, kept), self.column.index_select(0, kept)
        self.low, self.high = self.low.index_select(0, kept), self.high.index_select(0, kept)
        self.n_kept = len(self.row)


class _Search:
    """Blocks of products above the diagonal, each used for its rows and for its columns.

    ``floor`` has for each row a number that ``k`` cosines reach. The error of a product is at most the error
    of rounding the rows, known from their residuals, plus the error of summing, known from the number of
    terms. A pair is kept if it may reach the floor. The candidates of a block are reduced when their number
    has doubled.

    A number just below the floors is subtracted from the products. The values that are rounded to the type
    are then small near the floors. All thresholds are positive, so comparing the bits as integers gives the
    same result and is faster.
    """

    def __init__(self, rows: UnitRows, k: int, size: int, dtype: torch.dtype) -> None:
        self.rows, self.k, self.dtype = rows, k, dtype
        self.device = rows.index.device
        n_features = rows.features.shape[1]
        # The number of exactly compared pairs is two or three times the number of neighbours.
        n_products = 3 * k * len(rows) * n_features
        self.compiled = self.device.type == "cpu" and n_features < WIDE and n_products >= COMPILE_FROM
        self.starts = [*range(0, len(rows), size), len(rows)]
        self.size = min(size, len(rows))
        self.shift_column = n_features
        self.width = -(-(n_features + 1) // 32) * 32
        # The bound of a sum of n products holds for any order, fused or not; magnitudes sum to at most 2.1.
        self.sum_error = 2.2 * (n_features + 2) * ROUNDING[torch.float32]
        self.residual: list[float] = []
        self.floor = torch.full((len(rows),), -1.0, dtype=torch.float64, device=self.device)
        self.candidates: list[_Candidates] = []
        # Keys and cosines of pairs of each block's rows that the blocks before it compared exactly; the last
        # key is of no pair.
        last = torch.tensor([len(rows) ** 2], device=self.device)
        self.known = [[(last, last)] for _ in self.starts[1:]]
        # Allocated once: temporaries of this size between small results would fragment the memory.
        new = partial(torch.zeros, device=self.device)
        self.unit = new((min(UNIT_ROWS, self.size), n_features), dtype=torch.float32)
        n_lefts = max(1, PANEL_BYTES // (self.size * self.width * dtype.itemsize))
        self.panel = new((min(n_lefts, len(self.starts) - 1) + 1, self.size, self.width), dtype=dtype)
        self.score = new((self.size, self.size), dtype=dtype)
        self.reached = np.empty(self.size**2 if self.device.type == "cpu" else 0, dtype=bool)

    def run(self) -> tuple[Tensor, Tensor]:
        n_blocks = len(self.starts) - 1
        for block in range(n_blocks):
            self._start(block)
            if block == 0 and self.dtype == torch.bfloat16:
                n_candidates = len(self.candidates[0].row) + self.candidates[0].n_waiting
                if n_candidates > FEW_BITS_SHARE * len(self.rows) * self.starts[1]:
                    raise _ImpreciseError
        per_panel = len(self.panel) - 1
        progress = LoggedProgress("nearest rows", n_blocks * (n_blocks - 1) // 2, "pairs of blocks")
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, n_blocks, per_panel):
            panel = range(first, min(first + per_panel, n_blocks))
            lefts = {i: self._rounded(i, i - first) for i in panel}
            for j in range(first + 1, n_blocks):
                right = lefts[j] if j in lefts else self._rounded(j, per_panel)
                for i in range(first, min(j, panel.stop)):
                    self._compare(i, j, lefts[i], right)
                    progress.advance()
            found += map(self._finish, panel)
        pairs, steps = zip(*found, strict=True)
        return torch.cat(pairs, dim=1), torch.cat(steps)

    def _span(self, block: int) -> slice:
        return slice(self.starts[block], self.starts[block + 1])

    def _rounded(self, block: int, place: int) -> Tensor:
        """Write a block's rows, in the type of the products, at a place of the panel; return ``(n, W)``."""
        return self._round(block, place)[0]

    def _round(self, block: int, place: int, *, measure: bool = False) -> tuple[Tensor, float]:
        """Do what :meth:`_rounded` does; with ``measure``, return the longest rounding error of a row too."""
        span, longest = self._span(block), 0.0
        rounded = self.panel[place, : span.stop - span.start]
        for some in rounded.split(len(self.unit)):
            start = span.start + (some.storage_offset() - rounded.storage_offset()) // self.width
            unit = self.rows.unit(start, start + len(some), self.unit[: len(some)])
            some[:, : unit.shape[1]] = unit
            some[:, self.shift_column] = 0
            if measure:
                unit -= some[:, : unit.shape[1]]
                longest = max(longest, float(unit.norm(dim=1).max()))
        return rounded, longest

    def _start(self, block: int) -> None:
        """Compare a block with itself; this comparison gives the block's first floors."""
        rounded, longest = self._round(block, 0, measure=self.dtype != self.unit.dtype)
        # The error of scaling to length 1, then the error of rounding to the type.
        self.residual.append(8 * ROUNDING[self.unit.dtype] + 1.01 * longest)
        score = self._score(rounded, rounded).fill_diagonal_(-2)
        error = self._error(block, block)
        floor = self.floor[self._span(block)]
        if len(score) > self.k:
            low, _ = self._bounds(score.topk(self.k, dim=1).values[:, -1], 0.0, error)
            torch.maximum(floor, low, out=floor)
        self.candidates.append(_Candidates.none(self.device))
        reach = floor - 2 * STEP - error
        reach = (reach - 3 * ROUNDING[self.dtype] * reach.abs()).to(self.dtype)
        place = positions(score >= reach[:, None])
        if len(place) > len(score) * (self.k + CROWDED[self.dtype] * len(score)):
            raise _ImpreciseError
        row, column = place // len(score), place % len(score)
        other = positions(row != column)
        self._propose(block, block, row[other], column[other], score.flatten()[place[other]], 0.0, error)

    def _error(self, i: int, j: int) -> float:
        """Bound the difference between a product of two blocks and the cosine, before rounding."""
        a, b = self.residual[i], self.residual[j]
        return a + b + a * b + self.sum_error

    def _bounds(self, score: Tensor, shift: Tensor | float, error: float) -> tuple[Tensor, Tensor]:
        score = score.double()
        off = error + 1.02 * ROUNDING[self.dtype] * score.abs()
        return score + shift - off, score + shift + off

    def _compare(self, i: int, j: int, left: Tensor, right: Tensor) -> None:
        """Compare two blocks of rows, for the rows of both blocks."""
        error = self._error(i, j)
        floors = self.floor[self._span(i)], self.floor[self._span(j)]
        rounding = ROUNDING[self.dtype]
        below = torch.minimum(floors[0].min(), floors[1].min()) - error - 4 * STEP
        rounded = (below - 2 * rounding * below.abs()).to(self.dtype)
        left[:, self.shift_column], right[:, self.shift_column] = -rounded, 1
        shift = rounded.double()
        score = self._score(left, right)
        reach = [((1 - 3 * rounding) * (floor - 2 * STEP - error - shift)).to(self.dtype) for floor in floors]
        for mine, (one, other) in enumerate(((i, j), (j, i))):
            bound = reach[mine] if mine else reach[mine][:, None]
            place = self._reaching(score, bound)
            at = place // len(right), place % len(right)
            near = score.view(-1).index_select(0, place)
            self._propose(one, other, at[mine], at[1 - mine], near, shift, error)

    def _score(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply the rows of two blocks: ``(m, n)``, which the next product overwrites."""
        out = self.score.view(-1)[: len(left) * len(right)].view(len(left), len(right))
        return _product(left, right, out)

    def _reaching(self, score: Tensor, bound: Tensor) -> Tensor:
        """Return the positions, in the flat block, of scores that are at least their bound, all positive."""
        integer = INTEGER[self.dtype]
        bits, least = score.view(integer), bound.view(integer)
        if not score.is_cpu:
            return positions(bits >= least)
        # NumPy compares and finds several times as fast as torch.
        reached = self.reached[: score.numel()].reshape(score.shape)
        np.greater_equal(bits.numpy(), least.numpy(), out=reached)
        return torch.from_numpy(np.flatnonzero(reached))

    def _propose(
        self, i: int, j: int, row: Tensor, column: Tensor, score: Tensor, shift: Tensor | float, error: float
    ) -> None:
        """Add pairs of rows of blocks ``i`` and ``j`` to the candidates of ``i``; ``score`` has theirs."""
        if not len(row):
            return
        mine = self.candidates[i]
        mine.add(row, self.starts[j] + column, *self._bounds(score, shift, error))
        if mine.n_waiting > max(mine.n_kept, 4 * self.k * self.size):
            self._thin_out(i)
            if mine.n_kept > (CROWD + self.k) * self.size:
                self._keep_best(i)

    def _thin_out(self, block: int) -> None:
        """Raise the floors of a block and drop the candidates that cannot reach them."""
        mine, floor = self.candidates[block], self.floor[self._span(block)]
        mine.gather()
        order, start, count = mine.ranked(len(floor))
        row = positions(count >= self.k)
        kth = order[start[row] + self.k - 1]
        floor[row] = torch.maximum(floor[row], mine.low[kth])
        mine.select(positions(mine.high >= (floor - 2 * STEP).index_select(0, mine.row)))

    def _evaluate(self, block: int, chosen: Tensor) -> None:
        """Replace the bounds of the candidates at some positions by their cosines."""
        mine = self.candidates[block]
        chosen = chosen[mine.low[chosen] < mine.high[chosen]]
        cosine = STEP * self._steps(block, mine.row[chosen], mine.column[chosen]).double()
        inside = (mine.low[chosen] - STEP <= cosine) & (cosine <= mine.high[chosen] + STEP)
        if not inside.all():
            raise _ImpreciseError
        mine.low[chosen] = mine.high[chosen] = cosine

    def _steps(self, block: int, row: Tensor, column: Tensor) -> Tensor:
        """Return the cosines of pairs of a block's rows in units of ``STEP``.

        Most near pairs are candidates of both rows: the block of the other row reads the cosine.
        """
        n, row, known = len(self.rows), self.starts[block] + row, self.known[block]
        keys, steps = (torch.cat(parts) for parts in zip(*known, strict=True))
        if len(known) > 1:
            keys, order = keys.sort()
            steps = steps[order]
            known[:] = [(keys, steps)]
        key = row * n + column
        place = torch.searchsorted(keys, key)
        found = steps[place]
        new = positions(keys[place] != key)
        row, column = row[new], column[new]
        found[new] = step = self.rows.cosines(row, column, compiled=self.compiled)
        later = positions(column >= self.starts[block + 1])
        order = later[column[later].argsort()]
        row, column, step = row[order], column[order], step[order]
        ends = torch.searchsorted(column, torch.tensor(self.starts[block + 1 :], device=self.device)).tolist()
        for other, (start, stop) in enumerate(pairwise(ends), block + 1):
            if start < stop:
                some = slice(start, stop)
                self.known[other].append((column[some] * n + row[some], step[some].clone()))
        return found

    def _keep_best(self, block: int) -> Tensor:
        """Reduce a block's candidates to the ``k`` best of each row, in order; return their cosines."""
        self._thin_out(block)
        mine = self.candidates[block]
        order, start, count = mine.ranked(len(self.floor[self._span(block)]))
        rank = torch.arange(self.k, device=self.device)
        self._evaluate(block, order[(start[:, None] + rank)[rank < count[:, None]]])
        self._thin_out(block)
        self._evaluate(block, torch.arange(len(mine.row), device=self.device))
        step = (mine.low / STEP).round().long()
        kept = first_k_per_row(mine.row, self.k, -step, mine.column)
        mine.select(kept)
        self._thin_out(block)
        return step[kept]

    def _finish(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the neighbours of a block's rows and their cosines, and drop the block's candidates."""
        step = self._keep_best(block)
        mine = self.candidates[block]
        pairs = torch.stack((self.starts[block] + mine.row, mine.column))
        self.candidates[block], self.known[block] = _Candidates.none(self.device), []
        return pairs, step


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Multiply the rows of two blocks, ``(m, F)`` and ``(n, F)``, into ``out``, ``(m, n)``."""
    return torch.mm(left, right.T, out=out)


def nearest_atoms(
    queries: UnitRows, atoms: UnitRows, k: int, *, same: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Find the ``k`` atoms with the highest cosine to each query, a block of queries at a time.

    float64 cosines, rounded to ``STEP``, decide; among equal cosines the lower id is nearer.

    Args:
        queries: Rows of one table.
        atoms: Rows of another table, or of the same table.
        k: >= 1; a number above the number of atoms means all atoms.
        same: Both are the rows of one table; a row is then not its own atom.

    Yields:
        The queries; positions of their atoms, nearest first, ``(n, k')``, ``len(atoms)`` for none; their
        cosines in units of ``STEP``, ``(n, k')``.
    """
    n_atoms, device = len(atoms), atoms.index.device
    if not len(queries) or not n_atoms:
        return
    size = max(1, min(1024, CROSS_BYTES // (8 * n_atoms)))
    width = atoms.features.shape[1]
    chunk = max(1, CROSS_BYTES // (8 * width))
    order = torch.arange(n_atoms - 1, -1, -1, device=device)
    double = partial(torch.empty, dtype=torch.float64, device=device)
    panel, part = double((min(size, len(queries)), width)), double((min(chunk, n_atoms), width))
    cosine = double((len(panel), n_atoms))
    progress = LoggedProgress("nearest atoms", len(queries), "rows")
    for start in range(0, len(queries), size):
        some = slice(start, min(start + size, len(queries)))
        n = some.stop - start
        left = queries.unit(start, some.stop, panel[:n])
        for first in range(0, n_atoms, chunk):
            last = min(first + chunk, n_atoms)
            cosine[:n, first:last] = left @ atoms.unit(first, last, part[: last - first]).T
        step = (cosine[:n].clamp(-1, 1) / STEP).round_().long()
        key = (step * n_atoms).add_(order)
        if same:
            key[torch.arange(n, device=device), torch.arange(start, some.stop, device=device)] = NEVER
        found = key.topk(min(k, n_atoms), dim=1)
        none = found.values == NEVER
        yield some, found.indices.masked_fill(none, n_atoms), step.gather(1, found.indices)
        progress.advance(n)
