"""The rows of the tables that a training step needs. Losses use these rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_siger.model.device import choices
from recbole_siger.model.loss import anchor_info_nce, info_nce
from recbole_siger.model.rows import Distinct, Rows
from recbole_siger.model.stacked import stacked_contrast
from recbole_siger.parallel.shares import ALONE, Share

__all__ = ["BatchRows", "Contrast", "batch_rows", "contrast_all", "contrast_share"]


@dataclass(frozen=True)
class BatchRows:
    """Users or items of a batch: the contrasted ones first, then others.

    Attributes:
        rows: Rows of the whole table, ``(n,)`` or a slice.
        keys: The first of them, ``(n_keys,)`` or a slice: those that are contrasted.
        n_keys: How many those are.
        queries: Positions in ``keys`` of the rows that are queries, ``(q,)``; None: all rows.
        positions: For each list of ids that was given, the position of each id in ``rows``, ``(B,)`` each.
        weight: Factor on a contrast of these queries; 1 unless several processes train.
        distinct: The contrasted ids with their padding, on devices where no shape depends on values.
    """

    rows: Rows | slice
    keys: Rows | slice
    n_keys: int
    queries: Tensor | None
    positions: tuple[Tensor, ...]
    weight: float = 1.0
    distinct: Distinct | None = None

    def of(self, table: Tensor) -> Tensor:
        """Cut a table to the rows that the batch needs: ``(n_rows, d)`` to ``(n, d)``."""
        return _cut(table, self.rows)

    def keys_of(self, table: Tensor) -> Tensor:
        """Cut a table to the contrasted rows: ``(n_rows, d)`` to ``(n_keys, d)``."""
        return _cut(table, self.keys)

    def take(self, table: Tensor) -> tuple[Tensor, ...]:
        """Take the row of each given id from the rows ``(n, d)``: ``(B, d)`` for each list of ids."""
        if self.distinct is None:
            return tuple(table.index_select(0, position) for position in self.positions)
        if isinstance(self.rows, slice):
            taken = Rows(torch.cat(self.positions), self.n_keys).of(table)
            return taken.split([len(position) for position in self.positions])
        # The others are rows of their own.
        keys, *others = table.split(
            [self.n_keys, *[len(self.positions[0])] * (len(table) // self.n_keys - 1)]
        )
        return Rows(self.positions[0], self.n_keys).of(keys), *others

    def contrast(
        self, query: Tensor, key: Tensor, temperature: float, anchor: Tensor | None = None
    ) -> Tensor:
        """Contrast queries with keys by cosine: :func:`contrast_all` of one contrast.

        Args:
            query: Table of queries, rows ``rows`` or ``keys`` of the whole table.
            key: Table of keys, of the same rows.
            temperature: τ, > 0.
            anchor: Table of anchors, of the same rows.

        Returns:
            The loss, ``()``.
        """
        return contrast_all([Contrast(self, query, key, temperature, anchor)])[0]

    def queries_of(self, table: Tensor) -> Tensor:
        """Cut a table of the rows to the queries: ``(n, d)`` to ``(q, d)``."""
        if self.queries is None:
            return _first(table, self.n_keys)
        return Rows(self.queries, len(table)).of(table)


def _cut(table: Tensor, rows: Rows | slice) -> Tensor:
    """Take rows of a table; index_select is three times as fast as indexing."""
    return table[rows] if isinstance(rows, slice) else rows.of(table)


class Contrast(NamedTuple):
    """A contrast of tables of the rows of a batch, ``(n, d)`` each."""

    rows: BatchRows
    query: Tensor
    key: Tensor
    temperature: float
    anchor: Tensor | None = None


def contrast_all(contrasts: Sequence[Contrast]) -> list[Tensor]:
    """Compute contrasts by cosine; a GPU computes those of one temperature and one size together.

    Args:
        contrasts: Those without an anchor are :func:`~recbole_siger.model.loss.info_nce`, the others
            :func:`~recbole_siger.model.loss.anchor_info_nce`.

    Returns:
        The loss of each contrast, ``()``.
    """
    if not contrasts or contrasts[0].rows.distinct is None or contrasts[0].rows.queries is not None:
        return [_contrast(one) for one in contrasts]
    found: dict[int, Tensor] = {}

    def kind(place: int) -> tuple[Any, ...]:
        one = contrasts[place]
        return one.temperature, one.rows.n_keys, one.query.shape[1]

    for _, group in groupby(sorted(range(len(contrasts)), key=kind), kind):
        places = sorted(group, key=lambda place: contrasts[place].anchor is not None)
        found |= zip(places, _contrast_together([contrasts[place] for place in places]), strict=True)
    return [found[place] for place in range(len(contrasts))]


def _contrast(one: Contrast) -> Tensor:
    """Compute a contrast of the queries of this process."""
    rows, tau, weight = one.rows, one.temperature, None
    if rows.weight == 0.0:  # fewer queries than processes
        return one.query.sum() * 0
    if rows.distinct is not None and rows.distinct.count is not None:
        weight = rows.distinct.valid() / rows.distinct.count
    query, key, target = rows.queries_of(one.query), _first(one.key, rows.n_keys), rows.queries
    if one.anchor is None:
        found = info_nce(query, key, tau, target=target, weight=weight)
    else:
        anchor = rows.queries_of(one.anchor)
        found = anchor_info_nce(query, key, anchor, tau, target=target, weight=weight)
    return found if rows.weight == 1.0 else found * rows.weight


def _contrast_together(group: Sequence[Contrast]) -> tuple[Tensor, ...]:
    """Compute contrasts of one temperature and size, those with an anchor last."""
    n, distinct = group[0].rows.n_keys, [one.rows.distinct for one in group if one.rows.distinct]
    queries, keys = [one.query for one in group], [one.key for one in group]
    anchors = [one.anchor for one in group if one.anchor is not None]
    valid = (torch.stack([one.ids for one in distinct]) > 0).float()
    count = torch.stack([one.count for one in distinct if one.count is not None])
    size = choices(valid).chunk_size(n, len(group))
    losses = stacked_contrast(queries, keys, anchors, valid, count, group[0].temperature, size)
    return losses.unbind()


def _first(table: Tensor, n: int) -> Tensor:
    return table if len(table) == n else table[:n]  # the gradient of a slice is two kernels


def batch_rows(ids: Tensor, *others: Tensor, n_rows: int, negatives: str, share: Share = ALONE) -> BatchRows:
    """Choose the rows that a batch needs.

    On a GPU the distinct ids are padded to B, so that no shape depends on them; the contrasts leave the
    padding out. Several processes use the distinct ids as they are.

    Args:
        ids: Contrasted users or items of the batch, ``(B,)``, in ``[1, n_rows)``; repeated ones count once.
        others: Further ids of the same kind, ``(B,)`` each: needed, but not contrasted.
        n_rows: Rows of the whole table, padding row 0 included.
        negatives: ``"batch"`` contrasts the distinct ``ids`` with each other; ``"full"`` with every row but
            the padding.
        share: Of which positions and queries there are those of one process; keys are all of the batch.

    Returns:
        The rows, with the positions of ``ids`` and ``others`` in this order.

    Raises:
        ValueError: If ``negatives`` is something else.

    Example:
        >>> rows = batch_rows(torch.tensor([5, 2, 5]), torch.tensor([7, 2, 1]), n_rows=9, negatives="batch")
        >>> rows.rows.ids.tolist(), rows.n_keys, [p.tolist() for p in rows.positions]
        ([2, 5, 7, 2, 1], 2, [[1, 0, 1], [2, 3, 4]])
    """
    if negatives not in ("batch", "full"):
        raise ValueError(f"negatives must be 'batch' or 'full', got {negatives!r}")
    distinct = Distinct(ids, n_rows, static=choices(ids).static and share.size == 1)
    padded = None if distinct.count is None else distinct
    weight = share.weight(len(distinct.ids)) if padded is None else 1.0
    if negatives == "full":
        every, places = slice(1, None), tuple(share.of(x - 1) for x in (ids, *others))
        queries = share.of(distinct.ids - 1) if padded is None else (distinct.ids - 1).clamp_min_(0)
        return BatchRows(every, every, n_rows - 1, queries, places, weight, padded)
    positions, start = [distinct.place], len(distinct.ids)
    for other in others if padded is None else ():
        positions.append(torch.arange(start, start + len(other), device=ids.device))
        start += len(other)
    places, n_keys = tuple(map(share.of, positions)), len(distinct.ids)
    queries = None if share.size == 1 else share.of(torch.arange(n_keys, device=ids.device))
    rows, keys = Rows(torch.cat([distinct.ids, *others]), n_rows), distinct.rows()
    return BatchRows(rows if others else keys, keys, n_keys, queries, places, weight, padded)


def contrast_share(
    query: Tensor, key: Tensor, temperature: float, *, target: Tensor | None = None, share: Share = ALONE
) -> Tensor:
    """Contrast queries with keys, of the queries those of one process; no queries have the loss 0.

    Args:
        query: Queries of all processes, ``(n, d)``.
        key: Keys, ``(N, d)``.
        temperature: As :func:`~recbole_siger.model.loss.info_nce` takes it.
        target: Row of ``key`` that is the positive of each query, ``(n,)``; by default row i of query i.
        share: Which queries are this process's.

    Returns:
        The loss, ``()``; its mean over the processes is the mean over all queries.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
        >>> round(contrast_share(x, x, 1.0).item(), 4), contrast_share(x[:0], x, 1.0).item()
        (0.3133, 0.0)
    """
    if share.size == 1 and len(query):
        return info_nce(query, key, temperature, target=target)
    if target is None:
        target = torch.arange(len(query), device=query.device)
    own = share.of(query)
    if not len(own):
        return query.sum() * 0 + key.sum() * 0
    weight = share.weight(len(query))
    loss = info_nce(own, key, temperature, target=share.of(target))
    return loss if weight == 1.0 else loss * weight
