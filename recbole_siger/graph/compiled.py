"""Loops that no tensor operation does well, compiled by numba when they are first called.

Import this module only where a loop is needed: it imports numba. A kernel is compiled once a process, in one
or two seconds, and kept nowhere; its callers choose it where there is work enough.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["co_occurrences", "dot_products"]

Array = np.ndarray[Any, Any]


@numba.njit(nogil=True, fastmath={"reassoc", "contract"})
def _dot_products(x: Array, i: Array, j: Array, out: Array) -> None:
    for pair in range(len(i)):
        a, b = x[i[pair]], x[j[pair]]
        total = 0.0
        for f in range(x.shape[1]):
            total += np.float64(a[f]) * np.float64(b[f])
        out[pair] = total


def dot_products(x: Array, i: Array, j: Array) -> Array:
    """Return the inner products of rows ``i`` and ``j`` of ``x``, each ``(n,)``, summed in float64."""
    out = np.empty(len(i))
    _dot_products(x, i, j, out)
    return out


@numba.njit(nogil=True)
def _transpose(user_start: Array, items: Array, place: Array, users: Array) -> None:
    for user in range(len(user_start) - 1):
        for at in range(user_start[user], user_start[user + 1]):
            users[place[items[at]]] = user
            place[items[at]] += 1


@numba.njit(nogil=True)
def _co_occurrences(
    user_start: Array, items: Array, item_start: Array, users: Array, state: Array, min_count: int,
    neighbour: Array, best: Array,
) -> None:  # fmt: skip
    # ``state`` holds an item's counter, 0, beside its tie key: what is far in memory is fetched once.
    n_items, k = neighbour.shape
    seen, kept_tie = np.empty(n_items, np.int32), np.empty(k, np.int32)
    for i in range(n_items):
        n_seen = 0
        for edge in range(item_start[i], item_start[i + 1]):
            user = users[edge]
            for place in range(user_start[user], user_start[user + 1]):
                j = items[place]
                if state[j, 0] == 0:
                    seen[n_seen] = j
                    n_seen += 1
                state[j, 0] += 1
        n_kept = 0
        for place in range(n_seen):
            j = seen[place]
            c, tie = state[j, 0], state[j, 1]
            state[j, 0] = 0
            if j == i or c < min_count:
                continue
            # Move along the kept ones that are worse, from the last on.
            at = n_kept
            while at > 0:
                other, d, t = neighbour[i, at - 1], best[i, at - 1], kept_tie[at - 1]
                if d > c or (d == c and (t < tie or (t == tie and other < j))):
                    break
                if at < k:
                    neighbour[i, at], best[i, at], kept_tie[at] = other, d, t
                at -= 1
            if at < k:
                neighbour[i, at], best[i, at], kept_tie[at] = j, c, tie
                n_kept = min(n_kept + 1, k)


def co_occurrences(
    user_start: Array, items: Array, item_start: Array, tie: Array, k: int, min_count: int
) -> tuple[Array, Array]:
    """Count for each item how many users it shares with others, and keep the ``k`` best of them.

    Args:
        user_start: Where each user's entries of ``items`` start, and their end, ``(U + 1,)``, int64.
        items: Distinct items of each user, ``(E,)``, int32.
        item_start: Where each item's users start in the order of items, and their end, ``(I + 1,)``, int64.
        tie: Of two items that share equally many users, the one with the lower number is better, ``(I,)``;
            within 32 bits; then the one with the lower id.
        k: Items kept, >= 1.
        min_count: Fewest shared users.

    Returns:
        Neighbours, best first, -1 where there are no more, and shared users, both ``(I, k)``, int32.
    """
    neighbour = np.full((len(item_start) - 1, k), -1, np.int32)
    best = np.zeros_like(neighbour)
    users = np.empty(len(items), np.int32)
    _transpose(user_start, items, item_start[:-1].copy(), users)
    state = np.zeros((len(tie), 2), np.int32)
    state[:, 1] = tie
    _co_occurrences(user_start, items, item_start, users, state, min_count, neighbour, best)
    return neighbour, best
