"""Propagation over hyperedges: learned groups of items and users."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.model.layers import UserItem

__all__ = ["hypergraph"]


def hypergraph(
    item_edges: Tensor, user_edges: Tensor, x: Tensor, n_layers: int, *, n_sources: int | None = None
) -> UserItem:
    r"""Propagate items over hyperedges, and gather the hyperedges into users.

    .. math::
        C_l = \frac{K}{I} H_i^\top B_{l-1}, \qquad B_l = H_i C_l, \qquad B_0 = X

    Source: LGMRec (arXiv 2312.16400), which has no factor K / I. Without the factor the numbers grow as (I /
    K)^L. LGMRec uses only directions, of these tables and of their sum over modalities, so the factor changes
    no result. An item or a user without a share of any hyperedge becomes zero.

    Args:
        item_edges: Shares of items in hyperedges :math:`H_i`, shape ``(I, K)``.
        user_edges: Shares of users :math:`H_u`, shape ``(U, K)``.
        x: Embeddings of items X, shape ``(I, d)``.
        n_layers: L, >= 1.
        n_sources: Number of leading items that the hyperedges gather, counted as I, in [1, I]; default all.

    Returns:
        Users :math:`H_u C_L` and items :math:`B_L`, shapes ``(U, d)`` and ``(I, d)``, float32.

    Raises:
        ValueError: If a number is out of range or the shapes do not fit.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> hypergraph(torch.eye(2), torch.tensor([[0.5, 0.5]]), x, n_layers=1)
        UserItem(user=tensor([[2.]]), item=tensor([[1.],
                [3.]]))
    """
    if n_layers < 1:
        raise ValueError(f"n_layers must be at least 1, got {n_layers}")
    fits = item_edges.dim() == 2 and x.shape[:1] == item_edges.shape[:1]
    if not fits or user_edges.shape[1:] != item_edges.shape[1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (item_edges, user_edges, x))
        raise ValueError(f"expected shapes (I, K), (U, K) and (I, d), got {shapes}")
    n, n_edges = len(x) if n_sources is None else n_sources, item_edges.shape[1]
    if not 1 <= n <= len(x):
        raise ValueError(f"n_sources must be in [1, {len(x)}], got {n}")
    with torch.autocast(x.device.type, enabled=False):  # sums over all items exceed half precision
        items, users, x = item_edges.float(), user_edges.float(), x.float()
        for _ in range(n_layers):
            gathered = items[:n].T @ (x[:n] * (n_edges / n))
            x = items @ gathered
        return UserItem(users @ gathered, x)
