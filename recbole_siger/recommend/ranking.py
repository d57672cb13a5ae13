"""Ranked items of many users, block after block in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists, top_k_by_id

__all__ = ["BLOCK_BYTES", "Ranked", "check_k", "join", "lists_of", "merged", "rank_blocks", "ranks_of"]

Ids = NDArray[np.int64]
Ranked = tuple[Ids, Ids, NDArray[np.float32]]
"""Rows, items and scores of recommendations, each ``(n,)``, by row and then best first."""

BLOCK_BYTES = 16 * 2**20
"""Scores that are held at a time: few calls, and below the 32 MiB from which each block is mapped anew."""


def rank_blocks(
    n_rows: int,
    n_items: int,
    score: Callable[[Ids], Tensor],
    hidden: Callable[[Ids], tuple[Ids, Ids]] | None,
    k: int,
    candidates: Ids | None = None,
) -> Iterator[Ranked]:
    """Yield the ``k`` best items of each row, a block of rows at a time.

    Args:
        n_rows: Number of rows.
        n_items: Number of items, the padding item included.
        score: Takes rows ``(B,)`` and returns scores ``(B, n_items)``, which are overwritten.
        hidden: Takes rows and returns (place in the rows, item) pairs that are never recommended.
        k: Items a row at most, >= 1; a row with fewer candidates has fewer.
        candidates: Items that can be recommended, ascending; None: all but the padding item.
    """
    if candidates is not None and not len(candidates):
        return
    step = max(1, BLOCK_BYTES // (4 * n_items))
    for start in range(0, n_rows, step):
        rows = np.arange(start, min(start + step, n_rows))
        scores = score(rows)
        scores[:, 0] = -torch.inf
        if hidden is not None:
            place, item = (torch.from_numpy(part) for part in hidden(rows))
            scores[place, item] = -torch.inf
        chosen = scores if candidates is None else scores[:, torch.from_numpy(candidates)]
        best = top_k_by_id(chosen, min(k, chosen.shape[1]))
        values = chosen.gather(1, best).numpy()
        items = best.numpy() if candidates is None else candidates[best.numpy()]
        there = values > -np.inf
        place_of_row = np.nonzero(there)[0]
        yield rows[place_of_row], items[there], values[there]


def join(blocks: Iterator[Ranked]) -> Ranked:
    """Put blocks together."""
    parts = list(blocks)
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows, items, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, items, scores


def ranks_of(rows: Ids) -> Ids:
    """Return the rank of each recommendation within its row, from 1; ``rows`` is ascending.

    >>> ranks_of(np.array([0, 0, 3, 3, 3])).tolist()
    [1, 2, 1, 2, 3]
    """
    return np.arange(len(rows)) - np.searchsorted(rows, rows) + 1


def lists_of(items: list[Ids]) -> ItemLists:
    """Return lists of item ids as one CSR pair; the items of a list are distinct and ascending."""
    distinct = [np.unique(part) for part in items]
    counts = [len(part) for part in distinct]
    flat = np.concatenate(distinct) if distinct else np.empty(0, np.int64)
    return ItemLists(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), flat.astype(np.int64))


def merged(first: ItemLists, second: ItemLists, n_users: int, n_items: int) -> ItemLists:
    """Return the distinct items of both lists of each user."""
    if not len(second.items):
        return first
    users = [np.repeat(np.arange(n_users), np.diff(one.indptr)) for one in (first, second)]
    items = np.concatenate([first.items, second.items])
    return ItemLists.from_pairs(np.concatenate(users), items, n_users, n_items)


def check_k(k: int | np.integer[Any]) -> int:
    """Return ``k``, or raise a UserError unless it is an integer >= 1."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise UserError(f"k={k!r}: expected an integer in [1, inf)")
    return int(k)
