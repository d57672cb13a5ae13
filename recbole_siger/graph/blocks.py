"""Edge-wise combinations of graphs, and block matrices of users and items: Eq. 6 of SCALE (AAAI 2026)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_siger.graph.normalize import sparse_matrix

__all__ = ["combine_graphs", "draw_non_neighbors", "edge_facts", "join_blocks", "non_neighbors"]


def combine_graphs(graphs: Sequence[Tensor], how: str) -> Tensor:
    """Keep the edges of any graph (union), or the edges of all graphs (intersection).

    Source: the operator of Eq. 6 of SCALE, defined as the intersection and described as a combination.

    Args:
        graphs: Sparse COO matrices of one shape ``(n, m)``, at least one; their weights are ignored.
        how: ``"union"`` or ``"intersection"``.

    Returns:
        Coalesced sparse COO tensor of ones, shape ``(n, m)``, float32.

    Raises:
        ValueError: If ``how`` is unknown, there is no graph, or the shapes differ.

    Example:
        >>> one, other = torch.tensor([[[1.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]]])
        >>> combine_graphs([one.to_sparse(), other.to_sparse()], "intersection").to_dense()
        tensor([[1., 0., 0.]])
    """
    shapes = {tuple(graph.shape) for graph in graphs}
    if how not in ("union", "intersection") or len(shapes) != 1:
        raise ValueError(
            f"expected 'union' or 'intersection' of graphs of one shape, got {how!r} of {shapes}"
        )
    n, m = graphs[0].shape
    index = torch.cat([graph.coalesce().indices() for graph in graphs], dim=1)
    count = sparse_matrix(index, torch.ones(index.shape[1], device=index.device), (n, m))
    kept = count.values() >= (1 if how == "union" else len(graphs))
    index = count.indices()[:, kept]
    return sparse_matrix(index, torch.ones(index.shape[1], device=index.device), (n, m))


def join_blocks(
    users: Tensor | None, user_items: Tensor | None, items: Tensor | None, size: Sequence[int]
) -> Tensor:
    r"""Combine three graphs to one; only the graph between users and items is mirrored.

    .. math::
        \begin{pmatrix} S_U & S_{UI} \\ S_{UI}^\top & S_I \end{pmatrix}

    Source: Eq. 6 of SCALE. Node ``u`` is user u, node ``U + i`` is item i.

    Args:
        users: Sparse COO, shape ``(U, U)``; None for an empty block.
        user_items: Sparse COO, shape ``(U, I)``; None for an empty block.
        items: Sparse COO, shape ``(I, I)``; None for an empty block.
        size: U and I.

    Returns:
        Coalesced sparse COO tensor, shape ``(N, N)`` with N = U + I, float32.

    Raises:
        ValueError: If a block has another shape, or every block is None.
    """
    n_users, n_items = size
    blocks = [(users, n_users, n_users, 0, 0), (user_items, n_users, n_items, 0, n_users)]
    blocks += [(items, n_items, n_items, n_users, n_users)]
    index, value = [], []
    for block, n, m, row, column in blocks:
        if block is None:
            continue
        if tuple(block.shape) != (n, m):
            raise ValueError(f"expected a block of shape {(n, m)}, got {tuple(block.shape)}")
        block = block.coalesce()
        moved = block.indices() + torch.tensor([[row], [column]], device=block.device)
        index += [moved, moved.flip(0)] if block is user_items else [moved]
        value += [block.values()] * (2 if block is user_items else 1)
    if not index:
        raise ValueError("expected at least one block")
    n_nodes = n_users + n_items
    return sparse_matrix(torch.cat(index, dim=1), torch.cat(value), (n_nodes, n_nodes))


def edge_facts(graph: Tensor) -> str:
    """Return the number of edges of a graph and the number of empty rows as text; row 0 is padding.

    Example:
        >>> edge_facts(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).to_sparse())
        '2 edges, 1.00 a row, 1 of 2 rows empty'
    """
    graph = graph.coalesce()
    n_rows = len(graph) - 1
    n_empty = n_rows - int((graph.indices()[0].unique() > 0).sum())
    density = graph._nnz() / max(n_rows, 1)
    return f"{graph._nnz():,} edges, {density:.2f} a row, {n_empty:,} of {n_rows:,} rows empty"


def non_neighbors(graph: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
    """List the excluded columns of each row, so that negatives can be drawn exactly from the other columns.

    The excluded columns are the row's neighbours, column 0 (padding), and with ``same`` the row itself. Let
    r be uniform in ``[0, n_free)``. Go through a row's excluded columns in order and add 1 to r for each
    column that is at most r. Then r is uniform over all other columns (:func:`draw_non_neighbors`).

    Args:
        graph: Sparse COO, shape ``(n, m)``.
        same: Rows and columns are the same nodes.

    Returns:
        Excluded columns of each row, ascending, padded with m: ``(n, width)``, int64; numbers of free
        columns: ``(n,)``, int64.

    Example:
        >>> graph = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).to_sparse()
        >>> non_neighbors(graph, same=False)[0].tolist()
        [[0, 3], [0, 2]]
    """
    n, m = graph.shape
    row, column = graph.coalesce().indices()
    node = torch.arange(n, device=graph.device)
    rows = [row, node, *([node] if same else [])]
    columns = [column, torch.zeros_like(node), *([node] if same else [])]
    code = (torch.cat(rows) * m + torch.cat(columns)).unique()
    row, column = code // m, code % m
    count = torch.bincount(row, minlength=n)
    place = torch.arange(len(row), device=graph.device) - (count.cumsum(0) - count)[row]
    excluded = torch.full((n, int(count.max())), m, device=graph.device)
    excluded[row, place] = column
    return excluded, m - count


def draw_non_neighbors(
    row: Tensor, n_draws: int, excluded: Tensor, n_free: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw columns uniformly from the free columns of each row, with replacement.

    Args:
        row: Rows, each with at least one free column, shape ``(P,)``, int64.
        n_draws: Columns to draw for each row, >= 1.
        excluded: Result of :func:`non_neighbors`.
        n_free: Result of :func:`non_neighbors`.
        generator: Source of the draw; None for torch's global generator.

    Returns:
        Columns, shape ``(P, n_draws)``, int64.
    """
    share = torch.rand((len(row), n_draws), generator=generator, device=row.device, dtype=torch.float64)
    free = n_free[row].unsqueeze(1)
    drawn = (share * free).long().clamp_max_(free - 1)
    # An excluded column raises a number that is at least this column after the raises by the columns before.
    # The columns that raise a number are the first ones, up to the first that does not.
    before = torch.arange(excluded.shape[1], device=row.device)
    raises = drawn.unsqueeze(2) + before >= excluded[row].unsqueeze(1)
    return drawn + raises.long().cumprod(dim=2).sum(dim=2)
