"""Items with common users: the top-K co-occurrence graph, Eqs. 3-4 of SIGER (arXiv 2508.06154)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_siger.common.progress import LoggedProgress
from recbole_siger.graph.normalize import sparse_matrix
from recbole_siger.graph.ordering import first_k_per_row
from recbole_siger.graph.user_item import check_edges, distinct_pairs

__all__ = ["co_occurrence_graph"]

# From this number of pairs on, compiling the loop (one or two seconds) saves time.
COMPILE_FROM = 4_000_000


def co_occurrence_graph(
    edges: Tensor,
    n_users: int,
    n_items: int,
    k: int,
    *,
    min_count: int = 1,
    tie_break: str = "cosine",
    max_pairs: int = 1_000_000,
) -> Tensor:
    r"""Connect every item to the ``k`` items with the most common users.

    .. math::
        C = R^\top R, \qquad CR_{ij} = \sigma(\log C_{ij}) = \frac{C_{ij}}{1 + C_{ij}}

    Source: Eqs. 3-4 of SIGER. Directed, without self loops. Order within a row: higher count, then
    ``tie_break``, then lower item id. Items without an edge, including RecBole's padding id 0, have empty
    rows. The ranking uses integers, so neither ``max_pairs`` nor the device changes the result. On the CPU,
    a compiled loop counts many pairs one item at a time; its memory does not grow with the pairs, and it logs
    its progress every 30 seconds.

    Args:
        edges: Training users then items, shape ``(2, E)``, int64; duplicates count once.
        n_users: U, >= 1.
        n_items: I, >= 1.
        k: Neighbours per item, >= 1; an item with fewer candidates has fewer.
        min_count: Smallest number of common users of a pair, >= 1.
        tie_break: Among equal counts, ``"cosine"`` prefers the higher :math:`C_{ij}/\sqrt{n_i n_j}`,
            ``"popularity"`` the item with more users, ``"id"`` the lower item id.
        max_pairs: Item pairs, counted with repetition, in memory at a time, >= 1; peak memory is about 90
            bytes for each pair. An item with more pairs is expanded alone.

    Returns:
        Coalesced sparse COO tensor of CR, shape ``(I, I)``, float32, in [0.5, 1), on ``edges.device``.

    Raises:
        ValueError: If an id is out of range, a number is below 1 or ``tie_break`` is unknown.

    Example:
        >>> edges = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]])
        >>> co_occurrence_graph(edges, 2, 3, k=1).to_dense()
        tensor([[0.0000, 0.6667, 0.0000],
                [0.6667, 0.0000, 0.0000],
                [0.5000, 0.0000, 0.0000]])
    """
    for name, number in (("k", k), ("min_count", min_count), ("max_pairs", max_pairs)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    check_edges(edges, n_users, n_items)
    user, item = distinct_pairs(edges, n_items)
    tie = _tie_key(torch.bincount(item, minlength=n_items), tie_break)
    history = torch.bincount(user, minlength=n_users)
    if edges.is_cpu and int((history * history).sum()) >= COMPILE_FROM:
        item = item.int()
        del user  # 12 bytes an interaction that the loop does not need
        i, j, count = _compiled(item, history, tie, k, min_count)
    else:
        parts = []
        for i, j, count in _counted_pairs(user, item, n_users, n_items, max_pairs):
            frequent = count >= min_count
            i, j, count = i[frequent], j[frequent], count[frequent]
            # Pairs are in the order of i and j, and equal pairs keep this order: the lower item id wins.
            kept = first_k_per_row(i, k, -count, tie[j])
            parts.append(torch.stack((i[kept], j[kept], count[kept])))
        i, j, count = torch.cat(parts, dim=1)
    weight = count.float() / (1 + count).float()
    return sparse_matrix(torch.stack((i, j)), weight, (n_items, n_items))


def _tie_key(n_users_of: Tensor, tie_break: str) -> Tensor:
    """Return one integer for each item, ``(I,)``; among pairs with equal counts, the lower integer wins."""
    if tie_break == "cosine":
        # Within a row, C and n_i are equal for tied pairs, so a higher cosine is exactly a lower n_j.
        return n_users_of
    if tie_break == "popularity":
        return -n_users_of
    if tie_break == "id":
        return torch.zeros_like(n_users_of)
    raise ValueError(f"tie_break must be 'cosine', 'popularity' or 'id', got {tie_break!r}")


def _compiled(
    item: Tensor, history: Tensor, tie: Tensor, k: int, min_count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Count and rank with one counter for each item; ``item`` has the users' items, user by user, int32."""
    from recbole_siger.graph.compiled import co_occurrences

    n_pairs, per_item = int((history * history).sum()), torch.bincount(item, minlength=len(tie))
    progress = LoggedProgress("co-occurrence", len(tie), f"items, {n_pairs:,} pairs in all")
    neighbour, count = co_occurrences(
        _offsets(history), item.numpy(), _offsets(per_item), tie.numpy(), min(k, len(tie)), min_count,
        progress.advance,
    )  # fmt: skip
    found = torch.from_numpy(neighbour)
    i, place = (found >= 0).nonzero(as_tuple=True)
    return i, found[i, place].long(), torch.from_numpy(count)[i, place].long()


def _offsets(sizes: Tensor) -> np.ndarray[Any, Any]:
    """Return the starts of consecutive groups, and the end of the last group: ``(n + 1,)``."""
    return functional.pad(sizes.cumsum(0), (1, 0)).numpy()


def _counted_pairs(
    user: Tensor, item: Tensor, n_users: int, n_items: int, max_pairs: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield item i, item j != i and the number of common users, for whole rows i, sorted by i and j.

    ``user`` and ``item``, each ``(E,)``, are the distinct interactions in the order of users.
    """
    history = torch.bincount(user, minlength=n_users)
    first = history.cumsum(0) - history  # item[first[u] : first[u] + history[u]] are user u's items
    by_item = torch.argsort(item, stable=True)
    edges_before = [0, *torch.bincount(item, minlength=n_items).cumsum(0).tolist()]
    n_pairs = torch.zeros(n_items, dtype=torch.int64, device=item.device).index_add_(0, item, history[user])
    for start, stop in pairwise(_chunk_bounds(n_pairs, max_pairs)):
        edge = by_item[edges_before[start] : edges_before[stop]]
        repeats = history[user[edge]]
        i = item[edge].repeat_interleave(repeats)
        # The edge's pairs start here at repeats.cumsum(0) - repeats, and their items at first[user].
        shift = first[user[edge]] - (repeats.cumsum(0) - repeats)
        j = item[torch.arange(len(i), device=item.device) + shift.repeat_interleave(repeats)]
        other = i != j
        pair, count = torch.unique(i[other] * n_items + j[other], return_counts=True)
        yield pair // n_items, pair % n_items, count


def _chunk_bounds(n_pairs: Tensor, max_pairs: int) -> list[int]:
    """Divide items into runs of at most ``max_pairs`` pairs, or of one item: ``[0, ..., I]``."""
    total = n_pairs.cumsum(0).cpu()
    bounds, done = [0], 0
    while bounds[-1] < len(total):
        stop = int(torch.searchsorted(total, done + max_pairs, right=True))
        bounds.append(max(stop, bounds[-1] + 1))
        done = int(total[bounds[-1] - 1])
    return bounds
