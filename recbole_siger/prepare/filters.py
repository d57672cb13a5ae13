"""Filters of interactions: one row for each user-item pair, and the k-core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_of_pairs", "k_core"]


def first_of_pairs(
    user: NDArray[np.int64], item: NDArray[np.int64], timestamp: NDArray[np.float64 | np.int64] | None
) -> NDArray[np.bool_]:
    """Mark the earliest row of each user-item pair.

    Rows with equal times, or without times, are compared by their order. The curators of Amazon Reviews 2023
    also keep the earliest review.

    Args:
        user: User of each row, shape ``(E,)``.
        item: Item of each row, shape ``(E,)``.
        timestamp: Time of each row, shape ``(E,)``; or None.

    Returns:
        Shape ``(E,)``.

    Example:
        >>> first_of_pairs(np.array([0, 1, 0]), np.array([5, 5, 5]), np.array([2.0, 1.0, 1.0])).tolist()
        [False, True, True]
    """
    time = np.zeros(len(user)) if timestamp is None else timestamp
    order = np.lexsort((time, item, user))  # the sort is stable: equal rows keep their order
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
    marked = np.zeros(len(order), dtype=bool)
    marked[order[first]] = True
    return marked


def k_core(user: NDArray[np.int64], item: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Mark the rows of the largest part in which every user and every item has at least ``k`` rows.

    Users and items with fewer rows are removed. The removal is repeated until every remaining user and item
    has ``k`` rows. The result does not depend on the order of removal.

    Args:
        user: User of each row, shape ``(E,)``, >= 0.
        item: Item of each row, shape ``(E,)``, >= 0.
        k: Smallest number of rows; 0 or 1 keeps all rows.

    Returns:
        Shape ``(E,)``; all False if no such part exists.

    Example:
        >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1]), 2).tolist()
        [True, True, True, True, False]
    """
    kept = np.arange(len(user))
    while len(kept):
        stays = (np.bincount(user[kept])[user[kept]] >= k) & (np.bincount(item[kept])[item[kept]] >= k)
        if stays.all():
            break
        kept = kept[stays]
    marked = np.zeros(len(user), dtype=bool)
    marked[kept] = True
    return marked
