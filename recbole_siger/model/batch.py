"""The rows of the tables that a training step needs. Losses use these rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_siger.model.loss import info_nce
from recbole_siger.parallel.shares import ALONE, Share

__all__ = ["BatchRows", "batch_rows", "contrast_share"]


class BatchRows(NamedTuple):
    """Users or items of a batch: the contrasted ones first, then others.

    Attributes:
        ids: Rows of the whole table, ``(n,)`` or a slice.
        key_ids: The first of them, ``(n_keys,)`` or a slice: those that are contrasted.
        n_keys: How many those are.
        queries: Positions in ``key_ids`` of the rows that are queries, ``(q,)``; None: all rows.
        positions: For each list of ids that was given, the position of each id in ``ids``, ``(B,)`` each.
        weight: Factor on a contrast of these queries; 1 unless several processes train.
    """

    ids: Tensor | slice
    key_ids: Tensor | slice
    n_keys: int
    queries: Tensor | None
    positions: tuple[Tensor, ...]
    weight: float = 1.0

    def of(self, table: Tensor) -> Tensor:
        """Cut a table to the rows that the batch needs: ``(n_rows, d)`` to ``(n, d)``."""
        return _cut(table, self.ids)

    def keys_of(self, table: Tensor) -> Tensor:
        """Cut a table to the contrasted rows: ``(n_rows, d)`` to ``(n_keys, d)``."""
        return _cut(table, self.key_ids)

    def contrast(
        self, loss: Callable[..., Tensor], query: Tensor, key: Tensor, *rest: Tensor | float
    ) -> Tensor:
        """Contrast queries with keys.

        Args:
            loss: Such as :func:`~recbole_siger.model.loss.info_nce`, or with a third table, the anchor.
            query: Table of queries, rows ``ids`` or ``key_ids`` of the whole table.
            key: Table of keys, of the same rows.
            rest: What else ``loss`` takes; tables are of the same rows.

        Returns:
            The loss, ``()``.
        """
        others = (self._queries_of(x) if isinstance(x, Tensor) else x for x in rest)
        if self.weight == 0.0:  # fewer queries than processes
            return query.sum() * 0
        found = loss(self._queries_of(query), key[: self.n_keys], *others, target=self.queries)
        return found if self.weight == 1.0 else found * self.weight

    def _queries_of(self, table: Tensor) -> Tensor:
        return _cut(table, slice(self.n_keys) if self.queries is None else self.queries)


def _cut(table: Tensor, rows: Tensor | slice) -> Tensor:
    """Take rows of a table; index_select is three times as fast as indexing."""
    return table[rows] if isinstance(rows, slice) else table.index_select(0, rows)


def batch_rows(ids: Tensor, *others: Tensor, n_rows: int, negatives: str, share: Share = ALONE) -> BatchRows:
    """Choose the rows that a batch needs.

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
        >>> rows.ids.tolist(), rows.n_keys, [p.tolist() for p in rows.positions]
        ([2, 5, 7, 2, 1], 2, [[1, 0, 1], [2, 3, 4]])
    """
    distinct, position = ids.unique(return_inverse=True)
    weight = share.weight(len(distinct))
    if negatives == "full":
        every, places = slice(1, None), tuple(share.of(x - 1) for x in (ids, *others))
        return BatchRows(every, every, n_rows - 1, share.of(distinct - 1), places, weight)
    if negatives != "batch":
        raise ValueError(f"negatives must be 'batch' or 'full', got {negatives!r}")
    positions, start = [position], len(distinct)
    for other in others:
        positions.append(torch.arange(start, start + len(other), device=ids.device))
        start += len(other)
    places, n_keys = tuple(map(share.of, positions)), len(distinct)
    queries = None if share.size == 1 else share.of(torch.arange(n_keys, device=ids.device))
    return BatchRows(torch.cat([distinct, *others]), distinct, n_keys, queries, places, weight)


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
    if target is None:
        target = torch.arange(len(query), device=query.device)
    own = share.of(query)
    if not len(own):
        return query.sum() * 0 + key.sum() * 0
    weight = share.weight(len(query))
    loss = info_nce(own, key, temperature, target=share.of(target))
    return loss if weight == 1.0 else loss * weight
