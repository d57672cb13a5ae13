"""The bipartite graph of users and items, as a matrix and as an adjacency."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.graph.normalize import sparse_matrix

__all__ = ["draw_edges", "interaction_matrix", "user_item_adjacency"]


def interaction_matrix(edges: Tensor, n_users: int, n_items: int) -> Tensor:
    """Build the 0/1 interaction matrix R.

    Repeated interactions count once. Users and items without an edge, including RecBole's padding id 0, have
    an empty row or column. Source: the matrix R of Section "Behavior View" of SIGER.

    Args:
        edges: User ids then item ids, shape ``(2, E)``, int64, in ``[0, U)`` and ``[0, I)``.
        n_users: U, >= 1.
        n_items: I, >= 1.

    Returns:
        Coalesced sparse COO tensor of ones, shape ``(U, I)``, float32, on ``edges.device``.

    Raises:
        ValueError: If ``edges`` has another shape or type, or an id is out of range.

    Example:
        >>> edges = torch.tensor([[1, 1, 2], [2, 2, 1]])
        >>> interaction_matrix(edges, 3, 3).to_dense().tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    check_edges(edges, n_users, n_items)
    index = torch.stack(distinct_pairs(edges, n_items))
    ones = torch.ones(index.shape[1], device=edges.device)
    return sparse_matrix(index, ones, (n_users, n_items), ordered=True)


def check_edges(edges: Tensor, n_users: int, n_items: int) -> None:
    """Raise ``ValueError`` unless ``edges`` is ``(2, E)``, int64, with ids in ``[0, U)`` and ``[0, I)``."""
    if edges.dim() != 2 or edges.shape[0] != 2:
        raise ValueError(f"edges must have shape (2, E), got {tuple(edges.shape)}")
    if edges.dtype != torch.int64:
        raise ValueError(f"edges must be int64, got {edges.dtype}")
    for ids, size, kind in zip(edges, (n_users, n_items), ("user", "item"), strict=True):
        outside = ids[(ids < 0) | (ids >= size)]
        if len(outside):
            raise ValueError(f"{kind} id {outside[0].item()} is outside [0, {size})")


def distinct_pairs(edges: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Return users and items of the distinct edges, each ``(E',)``, sorted by user, then by item."""
    pair = edges[0] * n_items + edges[1]
    if pair.is_cpu:
        pair.numpy().sort()  # with vector instructions, several times as fast as torch
        kept = torch.ones(len(pair), dtype=torch.bool, device=pair.device)
        torch.ne(pair[1:], pair[:-1], out=kept[1:])
        if not kept.all():
            pair = pair[kept]
    else:
        pair = torch.unique(pair)
    item = pair % n_items
    return pair.floor_divide_(n_items), item


def user_item_adjacency(edges: Tensor, n_users: int, n_items: int, *, self_loops: bool = False) -> Tensor:
    r"""Build the symmetric 0/1 adjacency of users and items.

    .. math::
        G = \begin{pmatrix} 0 & R \\ R^\top & 0 \end{pmatrix}

    Source: the matrix G of Eq. 1 of SIGER. Node ``u`` is user u, node ``U + i`` is item i.

    Args:
        edges: User ids then item ids, shape ``(2, E)``, int64, in ``[0, U)`` and ``[0, I)``; duplicates count
            once.
        n_users: U, >= 1.
        n_items: I, >= 1.
        self_loops: Give every node except the padding nodes 0 and U an edge to itself: G + I.

    Returns:
        Coalesced sparse COO tensor of ones, shape ``(N, N)`` with N = U + I, float32, on ``edges.device``.

    Raises:
        ValueError: If ``edges`` has another shape or type, or an id is out of range.

    Example:
        >>> user_item_adjacency(torch.tensor([[0], [1]]), 1, 2).to_dense().tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    check_edges(edges, n_users, n_items)
    user, item = distinct_pairs(edges, n_items)
    back_item, back_user = distinct_pairs(edges.flip(0), n_users)
    index = torch.stack((torch.cat((user, back_item + n_users)), torch.cat((item + n_users, back_user))))
    n_nodes = n_users + n_items
    if self_loops:
        node = torch.arange(n_nodes, device=edges.device)
        node = node[(node != 0) & (node != n_users)]
        index = torch.cat((index, torch.stack((node, node))), dim=1)
    ones = torch.ones(index.shape[1], device=edges.device)
    return sparse_matrix(index, ones, (n_nodes, n_nodes), ordered=not self_loops)


def draw_edges(weight: Tensor, n_kept: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw edges without replacement, with probabilities proportional to their weights.

    Source: the pruned graphs of FREEDOM (arXiv 2211.06924) and LayerGCN (ICDE 2023). Equal weights draw
    uniformly.

    Args:
        weight: One number for each edge, > 0, shape ``(E,)``.
        n_kept: Edges to draw, in ``[0, E]``.
        generator: Source of the draw, on the device of ``weight``; None for torch's global generator.

    Returns:
        Positions of the drawn edges, shape ``(n_kept,)``, int64, in no particular order.

    Raises:
        ValueError: If ``n_kept`` is out of range.

    Example:
        >>> sorted(draw_edges(torch.ones(3), 3).tolist())
        [0, 1, 2]
    """
    if not 0 <= n_kept <= len(weight):
        raise ValueError(f"n_kept must be in [0, {len(weight)}], got {n_kept}")
    # The first of exponential clocks with these rates: the method of torch.multinomial, without its 2^24
    # limit.
    clock = torch.empty_like(weight).exponential_(generator=generator)
    return (clock / weight).topk(n_kept, largest=False).indices
