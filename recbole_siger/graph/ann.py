"""Nearest rows by lists of similar rows, for very many rows.

The rows are divided into lists by k-means. A row is compared with the rows of the lists whose centres are
nearest. The comparison uses few numbers of a row (its coordinates along the principal axes) and few bits, and
proposes candidates. Exact cosines rank the candidates. Two samples of rows are compared with all rows: the
first decides the number of coordinates and of lists, the second measures the share of neighbours found.

Memory grows linearly with the number of rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_siger.common.progress import LoggedProgress
from recbole_siger.graph import nearest as exact
from recbole_siger.graph.cosine import UnitRows

__all__ = ["nearest"]

logger = logging.getLogger(__name__)

# Below this number of rows, comparing all pairs is faster.
EXACT_BELOW = 20_000
# Recall that the first sample must reach, and recall that the second sample must reach.
PLANNED, REQUIRED = 0.995, 0.99
# Share of true neighbours that must be candidates if all rows are compared with few coordinates.
PROPOSED = 0.998
N_SAMPLE, BATCH = 512, 4096
# Numbers of coordinates that are tried before the whole width; one more column is used by the search.
WIDTHS = (63, 127, 255)
N_FOR_AXES, N_PER_LIST, N_ROUNDS = 16_384, 32, 6
# Rows that a row is compared with, at most; rows whose lists are searched together.
MOST_COMPARED, SLAB = 2**18, 16_384
# Products have few different shapes, because oneDNN prepares each shape once, and are small beside a cache.
ROW_PAD, MOST_ROWS, COLUMN_PAD, MOST_COLUMNS = 256, 2048, 64, 512
BELOW_ALL = -1.5


def nearest(rows: UnitRows, k: int) -> tuple[Tensor, Tensor]:
    """Find approximately the ``k`` nearest other rows of each row.

    Logs the share of the true neighbours that was found for up to 512 evenly spaced rows; logs a warning
    below .99. Fewer than 20,000 rows are all compared. The same rows, processor and number of threads always
    give the same result.

    Returns:
        Pairs (row, neighbour), ordered in each row, ``(2, n)``; their cosines in units of ``STEP``, ``(n,)``.
    """
    if len(rows) < max(EXACT_BELOW, 4 * k):
        logger.info("knn_method=ann: %d items are few; all pairs are compared", len(rows))
        return exact.nearest(rows, k, 1024)
    plan, measured = _samples(len(rows))
    truth = _true_neighbours(rows, torch.cat((plan, measured)), k)
    lists = _Lists(_table(rows, plan, truth.place[: len(plan)], k))
    n_probes = lists.n_probes(plan, truth.place[: len(plan)])
    most = max(1, min(lists.n_lists, MOST_COMPARED * lists.n_lists // len(rows)))
    n_probes = min(n_probes, most)
    while True:
        found = lists.search(rows, measured, n_probes, k)
        hits = found.step >= truth.step[len(plan) :, -1:]
        recall = float(hits.sum()) / hits.numel()
        if recall >= REQUIRED or n_probes == most:
            break
        n_probes = min(most, math.ceil(1.5 * n_probes))
    logger.log(
        logging.INFO if recall >= REQUIRED else logging.WARNING,
        "knn_method=ann: recall@%d %.4f on %d of %d items, %d of %d lists, %d of %d coordinates%s",
        k, recall, len(measured), len(rows), n_probes, lists.n_lists, lists.width, rows.features.shape[1],
        "" if recall >= REQUIRED else f"; below {REQUIRED}, use knn_method=exact",
    )  # fmt: skip
    return _search_all(rows, lists, n_probes, k)


@dataclass
class _Found:
    """Nearest rows of some queries: places and cosines in units of ``STEP``, ``(Q, k)`` each, best first."""

    place: Tensor
    step: Tensor


def _samples(n_rows: int) -> tuple[Tensor, Tensor]:
    """Return the rows of two disjoint samples, evenly spaced."""
    sample = torch.linspace(0, n_rows - 1, min(2 * N_SAMPLE, n_rows)).long().unique()
    return sample[::2], sample[1::2]


def _search_all(rows: UnitRows, lists: _Lists, n_probes: int, k: int) -> tuple[Tensor, Tensor]:
    """Search the neighbours of all rows; return them as :func:`nearest`."""
    n_rows = len(rows)
    progress = LoggedProgress("knn_method=ann", n_rows, "items")
    place = torch.empty((n_rows, k), dtype=torch.int32)
    step = torch.empty((n_rows, k), dtype=torch.int32)
    for start in range(0, n_rows, SLAB):
        queries = lists.order[start : start + SLAB]  # similar rows, which have the same lists
        found = lists.search(rows, queries, n_probes, k)
        place[queries], step[queries] = found.place.int(), found.step.int()
        progress.advance(len(queries))
    row, column = (place >= 0).nonzero(as_tuple=True)
    device = rows.index.device
    pairs = torch.stack((row, place[row, column].long()))
    return pairs.to(device), step[row, column].long().to(device)


# ---- few coordinates


@dataclass
class _Table:
    """All rows in few coordinates.

    Attributes:
        value: Coordinates, a column of ones, and columns of zeros, ``(V, W)``, bfloat16 or float32.
        width: Number of coordinates.
    """

    value: Tensor
    width: int


def _unit(rows: UnitRows, start: int, stop: int) -> Tensor:
    """Return a few rows scaled to length 1, float32, on the CPU."""
    empty = torch.empty((stop - start, rows.features.shape[1]), device=rows.index.device)
    return rows.unit(start, stop, empty).cpu()


def _unit_blocks(rows: UnitRows) -> Iterator[tuple[int, Tensor]]:
    """Yield all rows scaled to length 1, with the place of the first row of each block."""
    for start in range(0, len(rows), BATCH):
        yield start, _unit(rows, start, min(start + BATCH, len(rows)))


def _picked(rows: UnitRows, wanted: Tensor) -> Tensor:
    """Return the rows at some places, scaled to length 1, float32, on the CPU."""
    return _unit(rows[wanted.to(rows.index.device)], 0, len(wanted))


def _padded(n_coordinates: int) -> int:
    return -(-(n_coordinates + 1) // 32) * 32


def _whole(n_columns: int) -> int:
    return -(-n_columns // COLUMN_PAD) * COLUMN_PAD


def _compact(unit: Tensor, axes: Tensor | None, width: int, dtype: torch.dtype) -> Tensor:
    """Return rows in ``width`` coordinates with the columns of :class:`_Table`, ``(n, W)``."""
    part = torch.zeros((len(unit), _padded(width)), dtype=dtype)
    part[:, :width] = unit if axes is None else unit @ axes[:, :width]
    part[:, width] = 1
    return part


def _table(rows: UnitRows, sample: Tensor, truth: Tensor, k: int) -> _Table:
    """Choose the fewest coordinates and bits that propose nearly all true neighbours of a sample.

    Args:
        rows: All rows.
        sample: Places of some rows, ``(S,)``.
        truth: Places of their nearest rows, ``(S, k)``.
        k: Number of neighbours.
    """
    n_features = rows.features.shape[1]
    few = [width for width in WIDTHS if 2 * width < n_features]
    axes = _principal_axes(rows, max(few)) if few else None
    few_bits = torch.bfloat16 if exact.has_fast_bfloat16(torch.device("cpu")) else torch.float32
    forms = [(width, few_bits) for width in (*few, n_features)]
    if few_bits != torch.float32:
        forms.append((n_features, torch.float32))
    for width, dtype in forms:
        chosen = axes if width < n_features else None
        if (width, dtype) == forms[-1]:
            break
        kept = _proposals(rows, sample, n_candidates(k), (chosen, width, dtype))
        if (kept[:, None, :] == truth[:, :, None]).any(dim=2).double().mean() >= PROPOSED:
            break
    value = torch.zeros((len(rows) + COLUMN_PAD, _padded(width)), dtype=dtype)
    for start, unit in _unit_blocks(rows):
        value[start : start + len(unit)] = _compact(unit, chosen, width, dtype)
    return _Table(value, width)


def n_candidates(k: int) -> int:
    """Return the number of candidates of a row that exact cosines rank."""
    return 2 * k + 14


def _principal_axes(rows: UnitRows, n_axes: int) -> Tensor:
    """Return the axes with the largest part of a sample of rows, ``(F, n_axes)``, largest first."""
    wanted = torch.linspace(0, len(rows) - 1, min(N_FOR_AXES, len(rows))).long().unique()
    x = _picked(rows, wanted)
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn((x.shape[1], min(n_axes + 8, x.shape[1])), generator=generator)
    for _ in range(4):  # subspace iteration
        axes = torch.linalg.qr(x.T @ (x @ axes)).Q
    small = x @ axes
    _, rotation = torch.linalg.eigh((small.T @ small).double())
    return axes @ rotation.flip(1)[:, :n_axes].float()


def _true_neighbours(rows: UnitRows, sample: Tensor, k: int) -> _Found:
    """Compare sampled rows with all rows, exactly: ``(S, k)``."""
    place = _proposals(rows, sample, 4 * k + 16, (None, rows.features.shape[1], torch.float32))
    return _ranked(rows, sample, place, k)


def _proposals(
    rows: UnitRows, sample: Tensor, n_kept: int, form: tuple[Tensor | None, int, torch.dtype]
) -> Tensor:
    """Return the places of the rows that are nearest in some coordinates, ``(S, n_kept)``, -1 for none."""
    queries = _compact(_picked(rows, sample), *form)
    search = _Search(queries, form[1], sample, n_kept)
    everyone = torch.arange(len(sample))
    for start, unit in _unit_blocks(rows):
        block = _compact(functional.pad(unit, (0, 0, 0, _whole(len(unit)) - len(unit))), *form)
        for first in range(0, len(unit), MOST_COLUMNS):
            n_columns = min(MOST_COLUMNS, len(unit) - first)
            search.compare(everyone, block[first : first + _whole(n_columns)], start + first, n_columns)
    return torch.from_numpy(search.place)


def _ranked(rows: UnitRows, queries: Tensor, place: Tensor, k: int) -> _Found:
    """Keep the ``k`` candidates of each query with the highest exact cosine, then the lowest id.

    Args:
        rows: All rows.
        queries: ``(Q,)``.
        place: Candidates, ``(Q, C)``, -1 for none.
        k: Number of neighbours.
    """
    device = rows.index.device
    row = queries[:, None].expand_as(place)
    known = place >= 0
    step = rows.cosines(row[known].to(device), place[known].to(device), compiled=device.type == "cpu").cpu()
    key = torch.full(place.shape, exact.NEVER).masked_scatter_(known, (step << 31) - place[known])
    best = key.topk(min(k, key.shape[1]), dim=1)
    place = place.gather(1, best.indices)
    full = torch.full(key.shape, exact.NEVER).masked_scatter_(known, step)
    return _Found(place, full.gather(1, best.indices))


# ---- lists


class _Search:
    """The nearest rows of some queries so far.

    A number just below a query's floor is subtracted in the product, so few bits are precise near the floor.

    Args:
        panel: Queries with the columns of :class:`_Table`, ``(Q, W)``.
        width: Number of coordinates.
        self_place: Place of each query among the rows, ``(Q,)``.
        n_kept: Rows to keep for each query.
    """

    def __init__(self, panel: Tensor, width: int, self_place: Tensor, n_kept: int) -> None:
        self.panel, self.width, self.self_place = panel, width, self_place.numpy()
        self.wide = np.ascontiguousarray(panel[:, :width].float().numpy())
        self.best = np.full((len(panel), n_kept), BELOW_ALL, np.float32)
        self.place = np.full((len(panel), n_kept), -1, np.int64)
        self.left = torch.zeros((MOST_ROWS, panel.shape[1]), dtype=panel.dtype)
        self.score = torch.empty(MOST_ROWS * MOST_COLUMNS, dtype=panel.dtype)
        self.rounding = exact.ROUNDING[panel.dtype]

    def compare(self, query: Tensor, block: Tensor, first: int, n_columns: int) -> None:
        """Compare queries with a block of rows.

        Args:
            query: ``(n,)``, ascending.
            block: Rows with the columns of :class:`_Table`, ``(m, W)``, m a multiple of ``COLUMN_PAD``.
            first: Place of the first row.
            n_columns: Rows of the block that count.
        """
        from recbole_siger.graph.compiled import keep_nearest

        right = block.view(exact.INTEGER[block.dtype]).numpy()
        for some in query.split(MOST_ROWS):
            n_rows = -(-len(some) // ROW_PAD) * ROW_PAD
            left, ids = self.left[:n_rows], some.numpy()
            torch.index_select(self.panel, 0, some, out=left[: len(some)])
            floor = torch.from_numpy(self.best[ids, -1])
            left[: len(some), self.width] = -(floor - 2 * self.rounding * floor.abs())
            score = self.score[: n_rows * len(block)].view(n_rows, len(block))
            torch.mm(left, block.T, out=score)
            above = score.view(exact.INTEGER[score.dtype]).numpy()
            keep_nearest(above, ids, self.self_place, first, n_columns, self.wide, right,
                         self.best, self.place)  # fmt: skip


class _Lists:
    """Rows in lists, similar rows together.

    Attributes:
        order: Rows in the order of the lists, ``(V,)``, int64.
        start: Place in ``order`` of the first row of each list, and the end, ``(n_lists + 1,)``.
        n_lists: Number of lists.
    """

    def __init__(self, table: _Table) -> None:
        self.width = table.width
        n_rows = len(table.value) - COLUMN_PAD
        self.centres = _centres(table, n_rows)
        self.n_lists = len(self.centres)
        owner = torch.cat([self._owner(part) for part in table.value[:n_rows].split(BATCH)])
        self.order = owner.argsort(stable=True)
        self.start = functional.pad(torch.bincount(owner, minlength=self.n_lists).cumsum(0), (1, 0))
        self.owner = owner
        self.sorted = torch.zeros_like(table.value)
        torch.index_select(table.value, 0, self.order, out=self.sorted[:n_rows])
        self.place_of = torch.empty_like(self.order)
        self.place_of[self.order] = torch.arange(n_rows)

    def _nearness(self, part: Tensor) -> np.ndarray:
        return (part[:, : self.width].float() @ self.centres.T).numpy()

    def _owner(self, part: Tensor) -> Tensor:
        return torch.from_numpy(self._nearness(part).argmax(axis=1))

    def n_probes(self, sample: Tensor, truth: Tensor) -> int:
        """Return how many lists must be searched to find the planned share of true neighbours.

        Args:
            sample: ``(S,)``.
            truth: Nearest rows of the sample, ``(S, k)``.
        """
        nearness = torch.from_numpy(self._nearness(self.sorted[self.place_of[sample]]))
        reached = nearness.gather(1, self.owner[truth])
        rank = torch.stack([(nearness > one[:, None]).sum(dim=1) for one in reached.unbind(1)])
        ranks = rank.flatten().sort().values
        return 1 + int(ranks[min(len(ranks) - 1, math.ceil(PLANNED * len(ranks)))])

    def search(self, rows: UnitRows, queries: Tensor, n_probes: int, k: int) -> _Found:
        """Find the nearest rows of some rows in their nearest lists."""
        place = self.place_of[queries]
        panel = self.sorted[place]
        search = _Search(panel, self.width, place, n_candidates(k))
        for one, chosen in enumerate(self._probing(panel, n_probes)):
            some = chosen.nonzero()[:, 0]
            start, stop = int(self.start[one]), int(self.start[one + 1])
            for first in range(start, stop if len(some) else start, MOST_COLUMNS):
                n_columns = min(MOST_COLUMNS, stop - first)
                search.compare(some, self.sorted[first : first + _whole(n_columns)], first, n_columns)
        found = torch.from_numpy(search.place)
        candidates = self.order[found.clamp_min(0)].masked_fill_(found < 0, -1)
        return _ranked(rows, queries, candidates, k)

    def _probing(self, panel: Tensor, n_probes: int) -> Tensor:
        """Return for each list which queries have the list among their nearest lists, ``(n_lists, Q)``."""
        probed = torch.empty((self.n_lists, len(panel)), dtype=torch.bool)
        for part, out in zip(panel.split(BATCH), probed.split(BATCH, dim=1), strict=True):
            nearness = self._nearness(part)
            last = np.partition(nearness, self.n_lists - n_probes, axis=1)[:, self.n_lists - n_probes]
            out.copy_(torch.from_numpy(nearness >= last[:, None]).T)
        return probed


def _centres(table: _Table, n_rows: int) -> Tensor:
    """Divide a sample of rows by spherical k-means; return the centres, similar centres together."""
    n_lists = min(n_rows, 4 * math.isqrt(n_rows))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(n_rows, generator=generator)[: N_PER_LIST * n_lists]
    sample = table.value[chosen, : table.width]
    centres = sample[:n_lists].float()
    for _ in range(N_ROUNDS):
        owner = torch.cat([_most(part.float(), centres) for part in sample.split(BATCH)])
        total = torch.zeros_like(centres)
        for some, part in zip(owner.split(BATCH), sample.split(BATCH), strict=True):
            total.index_add_(0, some, part.float())
        empty = torch.bincount(owner, minlength=n_lists) == 0
        total[empty] = sample[torch.randint(len(sample), (int(empty.sum()),), generator=generator)].float()
        centres = total / total.norm(dim=1, keepdim=True).clamp_min(1e-12)
    groups = _most(centres, centres[: max(1, math.isqrt(n_lists))])
    return centres[groups.argsort(stable=True)].contiguous()


def _most(rows: Tensor, others: Tensor) -> Tensor:
    """Return the row of ``others`` with the largest product with each row."""
    return torch.from_numpy((rows @ others.T).numpy().argmax(axis=1))
