"""Who may be recommended what, and which recommendations are hits. Arrays and tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ItemLists", "hits_at_k"]

Ids = NDArray[np.int64]


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
        keys = np.unique(users.astype(np.int64) * n_items + items)
        counts = np.bincount(keys // n_items, minlength=n_users)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), keys % n_items)

    def without(self, other: ItemLists, n_items: int) -> ItemLists:
        """Return these lists less the pairs of ``other``."""
        n_users = len(self.indptr) - 1
        mine = np.repeat(np.arange(n_users), np.diff(self.indptr)) * n_items + self.items
        theirs = np.repeat(np.arange(n_users), np.diff(other.indptr)) * n_items + other.items
        left = np.setdiff1d(mine, theirs, assume_unique=True)
        return ItemLists.from_pairs(left // n_items, left % n_items, n_users, n_items)

    def of(self, users: Ids) -> tuple[Ids, Ids]:
        """Return ``(row, item)`` pairs, where row ``r`` stands for ``users[r]``.

        Args:
            users: shape ``(B,)``.

        Returns:
            Two arrays of one length, rows ascending.
        """
        start, length = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        rows = np.repeat(np.arange(len(users)), length)
        offset = np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)
        return rows, self.items[np.repeat(start, length) + offset]

    @property
    def users(self) -> Ids:
        """Users with at least one item, ascending."""
        return np.flatnonzero(np.diff(self.indptr))


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
    rows = torch.arange(len(top_items), device=top_items.device).unsqueeze(1)
    relevant = positive_row.to(top_items.device) * n_items + positive_item.to(top_items.device)
    return torch.isin(rows * n_items + top_items, relevant)
