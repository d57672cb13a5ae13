"""Candidates of each user, the best items, and hits. Arrays and tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.common.sorted_keys import contains, distinct

__all__ = [
    "ItemLists",
    "hits_at_k",
    "top_k",
    "top_k_by_id",
]

Ids = NDArray[np.int64]

_GROUP = 8  # items in a group with one maximum: few maxima, and few candidates
_TIED_ELEMENTS = 2**21  # scores whose ties are broken at a time


@dataclass(frozen=True)
class ItemLists:
    """The distinct items of each user, as one CSR pair.

    Attributes:
        indptr: shape ``(n_users + 1,)``.
        items: shape ``(nnz,)``, ascending within a user.
    """

    indptr: Ids
    items: Ids

    @classmethod
    def from_pairs(cls, users: Ids, items: Ids, n_users: int, n_items: int) -> ItemLists:
        """Collect ``(user, item)`` pairs; a repeated pair counts once.

        Args:
            users: shape ``(E,)``, in ``[0, n_users)``.
            items: shape ``(E,)``, in ``[0, n_items)``.
            n_users: Number of users, padding included.
            n_items: Number of items, padding included.

        Example:
            >>> ItemLists.from_pairs(np.array([2, 0, 2]), np.array([5, 1, 3]), 3, 7).of(np.array([2, 0]))
            (array([0, 0, 1]), array([3, 5, 1]))
        """
        keys = distinct(users.astype(np.int64) * n_items + items)
        counts = np.bincount(keys // n_items, minlength=n_users)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), keys % n_items)

    def without(self, other: ItemLists, n_items: int) -> ItemLists:
        """Return these lists without the pairs of ``other``."""
        n_users = len(self.indptr) - 1
        mine = np.repeat(np.arange(n_users), np.diff(self.indptr)) * n_items + self.items
        theirs = np.repeat(np.arange(n_users), np.diff(other.indptr)) * n_items + other.items
        left = mine[~contains(theirs, mine)]
        return ItemLists.from_pairs(left // n_items, left % n_items, n_users, n_items)

    def of(self, users: Ids) -> tuple[Ids, Ids]:
        """Return ``(row, item)`` pairs, where row ``r`` is the row of ``users[r]``.

        Args:
            users: shape ``(B,)``.

        Returns:
            Two arrays of equal length, rows ascending.
        """
        start, length = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        rows = np.repeat(np.arange(len(users)), length)
        offset = np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)
        return rows, self.items[np.repeat(start, length) + offset]

    @property
    def users(self) -> Ids:
        """Users with at least one item, ascending."""
        return np.flatnonzero(np.diff(self.indptr))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the items of the ``k`` highest scores, best first, as ``torch.topk`` does, ties included.

    On CPU, ``torch.topk`` ranks only the rows in which two of the ``k + 1`` highest scores are equal or NaN,
    because its choice among equal scores is not specified. A faster method ranks the other rows.

    Args:
        scores: shape ``(B, n_items)``.
        k: in ``[1, n_items]``.

    Returns:
        shape ``(B, k)``, int64.

    Example:
        >>> top_k(torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.8]]), 2).tolist()
        [[1, 2], [2, 0]]
    """
    is_plain = scores.device.type != "cpu" or scores.dtype != torch.float32
    if is_plain or scores.shape[1] < _GROUP**2 * k:  # with fewer items, torch.topk is about as fast
        return scores.topk(k, dim=1).indices
    items = _greatest(scores, k + 1)
    found = scores.gather(1, items)
    unsure = (~(found[:, :-1] > found[:, 1:]).all(dim=1)).nonzero().squeeze(1)
    items = items[:, :k]
    if len(unsure):
        items[unsure] = scores[unsure].topk(k, dim=1).indices
    return items


def top_k_by_id(scores: Tensor, k: int) -> Tensor:
    """Return the items of the ``k`` highest scores, best first; of equal scores the lower id.

    The result depends on the scores alone, not on the device or the number of threads. It equals
    :func:`top_k` in every row whose ``k + 1`` highest scores are distinct.

    Args:
        scores: shape ``(B, n_items)``, float32, without NaN.
        k: in ``[1, n_items]``.

    Returns:
        shape ``(B, k)``, int64.

    Example:
        >>> top_k_by_id(torch.tensor([[0.5, 0.9, 0.5, 0.5], [0.0, -0.0, -1.0, 0.0]]), 3).tolist()
        [[1, 0, 2], [0, 1, 3]]
    """
    n_items = scores.shape[1]
    items = top_k(scores, min(k + 1, n_items))
    found = scores.gather(1, items)
    unsure = (~(found[:, :-1] > found[:, 1:]).all(dim=1)).nonzero().squeeze(1)
    items = items[:, :k]
    # An integer in the order of the scores, with the item id below it, so that no two are equal.
    order = torch.arange(n_items - 1, -1, -1, device=scores.device)
    for some in unsure.split(max(1, _TIED_ELEMENTS // n_items)):
        bits = (scores[some] + 0.0).view(torch.int32).long()  # 0.0 and -0.0 are equal
        key = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) * 2**31 + order
        items[some] = key.topk(k, dim=1).indices
    return items


def _greatest(scores: Tensor, n: int) -> Tensor:
    """Return the positions of a row's ``n`` greatest values, greatest first, ties in any order: ``(B, n)``.

    The values lie in the ``n`` groups with the greatest maxima.
    """
    n_rows, width = scores.shape
    n_groups = width // _GROUP
    if n_groups < 2 * n:
        candidates = torch.arange(width).expand(n_rows, -1)
    else:
        # Column c is in group c % n_groups, so that maxima are of whole rows; the last columns are in no
        # group.
        grouped = scores[:, : n_groups * _GROUP].unflatten(1, (_GROUP, n_groups))
        groups = _greatest(grouped.amax(dim=1), n)
        members = torch.arange(0, n_groups * _GROUP, n_groups).unsqueeze(1) + groups.unsqueeze(1)
        rest = torch.arange(n_groups * _GROUP, width).expand(n_rows, -1)
        candidates = torch.cat([members.flatten(1), rest], dim=1)
    # numpy sorts short rows several times faster than torch.
    order = np.argsort(scores.gather(1, candidates).numpy(), axis=1)[:, : -n - 1 : -1]
    return candidates.gather(1, torch.from_numpy(order.copy()))


def hits_at_k(top_items: Tensor, positive_row: Tensor, positive_item: Tensor, n_items: int) -> Tensor:
    """Mark which recommended items are relevant.

    Args:
        top_items: Recommended items, best first, shape ``(B, K)``.
        positive_row: Row of each relevant pair, shape ``(P,)``, in ``[0, B)``.
        positive_item: Item of each relevant pair, shape ``(P,)``, in ``[0, n_items)``.
        n_items: Number of items, padding included.

    Returns:
        shape ``(B, K)``, bool.

    Example:
        >>> hits_at_k(torch.tensor([[3, 1], [2, 3]]), torch.tensor([0, 1]), torch.tensor([1, 1]), 4).tolist()
        [[False, True], [False, False]]
    """
    relevant = torch.zeros(len(top_items), n_items, dtype=torch.bool, device=top_items.device)
    relevant[positive_row.to(top_items.device), positive_item.to(top_items.device)] = True
    return relevant.gather(1, top_items)
