"""Which items look alike: the top-K graph of feature similarity, Eq. 6 of SIGER (arXiv 2508.06154)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recbole_siger.graph.cosine import STEP, UnitRows
from recbole_siger.graph.normalize import sparse_matrix
from recbole_siger.graph.ordering import first_k_per_row

__all__ = ["semantic_graph"]

PANEL_BYTES = 32 * 2**20
# Candidates a row, beyond k, from which exact cosines thin them out at once.
CROWD = 256
# From how many rows bfloat16 pays, and up to how many candidates a row, as a share of the rows: each costs as
# much as about a hundred products.
FEW_BITS_FROM, FEW_BITS_SHARE = 4096, 0.01
# Half the distance between two numbers, relative to them: the error of rounding to a type.
# Multiplications in float64 from which compiling their loop, about a second, pays.
COMPILE_FROM = 400_000_000
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
INTEGER = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def semantic_graph(features: Tensor, k: int, *, method: str = "exact", chunk_size: int = 1024) -> Tensor:
    r"""Connect every item to the ``k`` items most similar to it, itself included.

    .. math::
        H_{ij} = \frac{1 + \cos(x_i, x_j)}{2} \quad\text{for } j \in \operatorname{top}_k \cos(x_i, \cdot)

    Source: Eq. 6 of SIGER and the rule below it. Directed. The item itself comes first, then higher
    similarity, then lower item id. An all-zero row, among them the padding item 0, has no edge in either
    direction. With fewer than ``k`` other items there are fewer edges. Products of few bits only propose
    candidates; float64 cosines, rounded to 2^-30, decide, so neither ``chunk_size`` nor the device changes
    the result of ``"exact"``.

    Args:
        features: Raw features, shape ``(I, F)``, any float dtype, finite.
        k: Neighbours per item, the item itself counted, >= 1.
        method: ``"exact"`` compares all pairs. ``"ann"`` takes candidates from a navigable graph (faiss,
            HNSW) and ranks them exactly; it misses some, and logs how many on a sample. Runs on the CPU.
        chunk_size: Rows and columns of a block of ``"exact"``, >= 1; peak memory is about 64 MiB,
            ``20 * chunk_size * (chunk_size + F)`` bytes and ``100 * k`` bytes an item.

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, in [0, 1], on ``features.device``.

    Raises:
        ValueError: If ``features`` is not a finite float matrix, ``k`` or ``chunk_size`` is below 1, or
            ``method`` is unknown.
        UserError: If ``method`` is ``"ann"`` and faiss is missing, with the command that adds it.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
        >>> semantic_graph(x, k=2).to_dense()
        tensor([[0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.8536, 0.0000],
                [0.0000, 0.8536, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.8536, 1.0000]])
    """
    _check(features, k, method, chunk_size)
    rows = UnitRows(features)
    loops = torch.arange(len(rows), device=features.device)
    pairs, step = torch.stack((loops, loops)), torch.full_like(loops, round(1 / STEP))
    if k > 1 and len(rows) > 1:
        pool, first_equal = rows.duplicates(k)
        if method == "exact":
            found = nearest(rows[pool], k - 1, chunk_size)
        else:
            found = importlib.import_module("recbole_siger.graph.ann").nearest(rows[pool], k - 1)
        others, other_step = _add_duplicates(pool, first_equal, pool[found[0]], found[1], k - 1)
        pairs, step = torch.cat((pairs, others), dim=1), torch.cat((step, other_step))
    weight = (1 + step.double() * STEP) / 2
    return sparse_matrix(rows.index[pairs], weight.float(), (len(features), len(features)))


def _check(features: Tensor, k: int, method: str, chunk_size: int) -> None:
    if features.dim() != 2 or features.numel() == 0 or not features.is_floating_point():
        given = f"{features.dtype} of shape {tuple(features.shape)}"
        raise ValueError(f"features must be a non-empty float matrix, got {given}")
    for name, number in (("k", k), ("chunk_size", chunk_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if method not in ("exact", "ann"):
        raise ValueError(f"method must be 'exact' or 'ann', got {method!r}")


def _add_duplicates(
    pool: Tensor, first_equal: Tensor, pairs: Tensor, step: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Give the rows outside ``pool`` the neighbours of the first row that equals each, and that row.

    ``pairs``, ``(2, n)``, and ``step``, ``(n,)``, are the neighbours of the pool's rows, each row's in order.
    """
    outside = torch.ones_like(first_equal, dtype=torch.bool)
    outside[pool] = False
    (row,) = outside.nonzero(as_tuple=True)
    if not len(row):
        return pairs, step
    count = torch.bincount(pairs[0], minlength=len(first_equal))
    start, first = count.cumsum(0) - count, first_equal[row]
    repeats = count[first]
    position = torch.arange(int(repeats.sum()), device=row.device)
    position += (start[first] - (repeats.cumsum(0) - repeats)).repeat_interleave(repeats)
    copied = torch.stack((row.repeat_interleave(repeats), pairs[1, position]))
    one = torch.full_like(row, round(1 / STEP))
    copied = torch.cat((copied, torch.stack((row, first))), dim=1)
    copied_step = torch.cat((step[position], one))
    kept = first_k_per_row(copied[0], k, -copied_step, copied[1])
    return torch.cat((pairs, copied[:, kept]), dim=1), torch.cat((step, copied_step[kept]))


def nearest(rows: UnitRows, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` other rows nearest to each, by comparing all pairs.

    Returns:
        Pairs (row, neighbour), each row's in order, ``(2, n)``; their cosines in units of ``STEP``, ``(n,)``.
    """
    types = [torch.float32]
    if len(rows) >= FEW_BITS_FROM and _has_fast_bfloat16(rows.index.device):
        types.insert(0, torch.bfloat16)
    for dtype in types:
        try:
            return _Search(rows, k, chunk_size, dtype).run()
        except _ImpreciseError:
            continue
    return _Search(rows, k, chunk_size, torch.float64).run()


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in instructions)


class _ImpreciseError(Exception):
    """A product has too few bits.

    It leaves too many candidates, or is further from the cosine than its type allows: torch may have been
    told to multiply in fewer bits (TF32, autocast).
    """


@dataclass
class _Candidates:
    """Pairs of a block's rows with other rows, and bounds of their cosines, equal where it is known."""

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

    def ranked(self) -> tuple[Tensor, Tensor]:
        """Return positions by row, the greatest low bound first, and the rank of each within its row."""
        key = 4.0 * self.row - self.low  # bounds lie within -2 and 2
        # NumPy sorts with vector instructions, several times as fast.
        order = torch.from_numpy(np.argsort(key.numpy())) if key.is_cpu else torch.argsort(key)
        row = self.row[order]
        return order, torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)

    def select(self, kept: Tensor) -> None:
        self.row, self.column = self.row[kept], self.column[kept]
        self.low, self.high = self.low[kept], self.high[kept]
        self.n_kept = len(self.row)


class _Search:
    """Blocks of products above the diagonal, each used for its rows and for its columns.

    ``floor`` holds for each row a number that ``k`` cosines reach. A product is off by at most the error of
    rounding the rows, known from their residuals, and of summing, known from the number of terms; a pair is
    kept while it may reach the floor. What a block kept is thinned out when it has doubled.

    Products are taken minus a number just below the floors: what is rounded to the type is then small where
    it counts, and all thresholds are positive, so that integers compare the same and faster.
    """

    def __init__(self, rows: UnitRows, k: int, size: int, dtype: torch.dtype) -> None:
        self.rows, self.k, self.dtype = rows, k, dtype
        self.device = rows.index.device
        n_features = rows.features.shape[1]
        # Two or three times as many pairs as neighbours are compared exactly.
        self.compiled = self.device.type == "cpu" and 3 * k * len(rows) * n_features >= COMPILE_FROM
        self.starts = [*range(0, len(rows), size), len(rows)]
        self.size = min(size, len(rows))
        self.shift_column = n_features
        self.width = -(-(n_features + 1) // 32) * 32
        # The sum of n products with any order and fused or not; the terms' magnitudes sum to at most 2.1.
        accumulate = ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]
        self.sum_error = 2.2 * (n_features + 2) * accumulate
        self.residual: list[float] = []
        self.floor = torch.full((len(rows),), -1.0, dtype=torch.float64, device=self.device)
        self.candidates: list[_Candidates] = []
        # Allocated once: temporaries of this size between small results would scatter over the memory.
        new = partial(torch.zeros, device=self.device)
        self.unit = new(
            (self.size, n_features), dtype=torch.float64 if dtype == torch.float64 else torch.float32
        )
        n_lefts = max(1, PANEL_BYTES // (self.size * self.width * dtype.itemsize))
        self.panel = new((min(n_lefts, len(self.starts) - 1) + 1, self.size, self.width), dtype=dtype)
        self.score = new((self.size, self.size), dtype=dtype)

    def run(self) -> tuple[Tensor, Tensor]:
        n_blocks = len(self.starts) - 1
        for block in range(n_blocks):
            self._start(block)
            if block == 0 and self.dtype == torch.bfloat16:
                n_candidates = len(self.candidates[0].row) + self.candidates[0].n_waiting
                if n_candidates > FEW_BITS_SHARE * len(self.rows) * self.starts[1]:
                    raise _ImpreciseError
        per_panel = len(self.panel) - 1
        pairs, steps = [], []
        for first in range(0, n_blocks, per_panel):
            panel = range(first, min(first + per_panel, n_blocks))
            lefts = {i: self._rounded(i, i - first) for i in panel}
            for j in range(first + 1, n_blocks):
                right = lefts[j] if j in lefts else self._rounded(j, per_panel)
                for i in range(first, min(j, panel.stop)):
                    self._compare(i, j, lefts[i], right)
            for i in panel:
                pair, step = self._finish(i)
                pairs.append(pair)
                steps.append(step)
        return torch.cat(pairs, dim=1), torch.cat(steps)

    def _span(self, block: int) -> slice:
        return slice(self.starts[block], self.starts[block + 1])

    def _rounded(self, block: int, place: int) -> Tensor:
        """Write a block's rows, in the type of the products, at a place of the panel; return ``(n, W)``."""
        span = self._span(block)
        rounded = self.panel[place, : span.stop - span.start]
        unit = self.rows.unit(span.start, span.stop, self.unit[: len(rounded)])
        rounded[:, : unit.shape[1]] = unit
        rounded[:, self.shift_column] = 0
        return rounded

    def _start(self, block: int) -> None:
        """Compare a block with itself, which gives its first floors."""
        rounded = self._rounded(block, 0)
        unit = self.unit[: len(rounded)]
        # What scaling to length 1 loses, then what rounding to the type does.
        residual: float = 8 * ROUNDING[unit.dtype]
        if self.dtype != unit.dtype:
            unit -= rounded[:, : unit.shape[1]]
            residual += 1.01 * float(unit.norm(dim=1).max())
        self.residual.append(residual)
        score = _product(rounded, rounded, self.score[: len(rounded), : len(rounded)]).fill_diagonal_(-2)
        error = self._error(block, block)
        floor = self.floor[self._span(block)]
        if len(score) > self.k:
            low, _ = self._bounds(score.topk(self.k, dim=1).values[:, -1], 0.0, error)
            torch.maximum(floor, low, out=floor)
        self.candidates.append(_Candidates.none(self.device))
        reach = floor - 2 * STEP - error
        reach = (reach - 3 * ROUNDING[self.dtype] * reach.abs()).to(self.dtype)
        row, column = (score >= reach[:, None]).nonzero(as_tuple=True)
        other = row != column
        self._propose(block, block, row[other], column[other], score, 0.0, error)

    def _error(self, i: int, j: int) -> float:
        """Bound the distance of a product of two blocks from the cosine, before it is rounded."""
        a, b = self.residual[i], self.residual[j]
        return a + b + a * b + self.sum_error

    def _bounds(self, score: Tensor, shift: Tensor | float, error: float) -> tuple[Tensor, Tensor]:
        score = score.double()
        off = error + 1.02 * ROUNDING[self.dtype] * score.abs()
        return score + shift - off, score + shift + off

    def _compare(self, i: int, j: int, left: Tensor, right: Tensor) -> None:
        """Compare two blocks of rows, for both."""
        error = self._error(i, j)
        floors = self.floor[self._span(i)], self.floor[self._span(j)]
        rounding = ROUNDING[self.dtype]
        below = torch.minimum(floors[0].min(), floors[1].min()) - error - 4 * STEP
        rounded = (below - 2 * rounding * below.abs()).to(self.dtype)
        left[:, self.shift_column], right[:, self.shift_column] = -rounded, 1
        shift = rounded.double()
        score = _product(left, right, self.score[: len(left), : len(right)])
        reach = [((1 - 3 * rounding) * (floor - 2 * STEP - error - shift)).to(self.dtype) for floor in floors]
        bits, bound = score.view(INTEGER[self.dtype]), [one.view(INTEGER[self.dtype]) for one in reach]
        row, column = (bits >= bound[0][:, None]).nonzero(as_tuple=True)
        self._propose(i, j, row, column, score, shift, error)
        row, column = (bits >= bound[1]).nonzero(as_tuple=True)
        self._propose(j, i, column, row, score.T, shift, error)

    def _propose(
        self, i: int, j: int, row: Tensor, column: Tensor, score: Tensor, shift: Tensor | float, error: float
    ) -> None:
        """Add pairs of rows of blocks ``i`` and ``j`` to the candidates of ``i``."""
        if not len(row):
            return
        mine = self.candidates[i]
        mine.add(row, self.starts[j] + column, *self._bounds(score[row, column], shift, error))
        if mine.n_waiting > max(mine.n_kept, 4 * self.k * self.size):
            self._thin_out(i)
            if mine.n_kept > (CROWD + self.k) * self.size:
                self._keep_best(i)

    def _thin_out(self, block: int) -> None:
        """Raise the floors of a block and drop the candidates that cannot reach them."""
        mine, floor = self.candidates[block], self.floor[self._span(block)]
        mine.gather()
        order, rank = mine.ranked()
        kth = order[rank == self.k - 1]
        row = mine.row[kth]
        floor[row] = torch.maximum(floor[row], mine.low[kth])
        mine.select(mine.high >= floor[mine.row] - 2 * STEP)

    def _evaluate(self, block: int, chosen: Tensor) -> None:
        """Replace the bounds of chosen candidates, positions, by their cosines."""
        mine = self.candidates[block]
        chosen = chosen[mine.low[chosen] < mine.high[chosen]]
        row = self.starts[block] + mine.row[chosen]
        cosine = STEP * self.rows.cosines(row, mine.column[chosen], compiled=self.compiled).double()
        inside = (mine.low[chosen] - STEP <= cosine) & (cosine <= mine.high[chosen] + STEP)
        if not inside.all():
            raise _ImpreciseError
        mine.low[chosen] = mine.high[chosen] = cosine

    def _keep_best(self, block: int) -> Tensor:
        """Reduce a block's candidates to the ``k`` best of each row, in order; return their cosines."""
        self._thin_out(block)
        mine = self.candidates[block]
        order, rank = mine.ranked()
        self._evaluate(block, order[rank < self.k])
        self._thin_out(block)
        self._evaluate(block, torch.arange(len(mine.row), device=self.device))
        step = (mine.low / STEP).round().long()
        kept = first_k_per_row(mine.row, self.k, -step, mine.column)
        mine.select(kept)
        self._thin_out(block)
        return step[kept]

    def _finish(self, block: int) -> tuple[Tensor, Tensor]:
        """Return the neighbours of a block's rows and their cosines, and forget its candidates."""
        step = self._keep_best(block)
        mine = self.candidates[block]
        pairs = torch.stack((self.starts[block] + mine.row, mine.column))
        self.candidates[block] = _Candidates.none(self.device)
        return pairs, step


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Multiply the rows of two blocks, ``(m, F)`` and ``(n, F)``, into ``out``, ``(m, n)``."""
    return torch.mm(left, right.T, out=out)
