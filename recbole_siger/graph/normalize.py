"""Degree normalisation of sparse graphs, Eqs. 1, 5 and 11 of SIGER (arXiv 2508.06154)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normalize_adjacency", "normalize_bipartite", "normalize_rows", "sparse_matrix", "weighted_sum"]


def normalize_adjacency(adjacency: Tensor) -> Tensor:
    r"""Divide each edge by the square roots of the degrees of its two ends.

    .. math::
        \bar A = D^{-1/2} A D^{-1/2}, \qquad D_{ii} = \sum_j A_{ij}

    Source: Eqs. 1 and 5 of SIGER. The row sums of the weighted, directed matrix are used on *both* sides. An
    empty row stays empty. An edge to a node with an empty row becomes zero and is removed. The result is
    never NaN or infinite. Gradients flow to the weights, through the degrees too.

    Args:
        adjacency: Sparse COO tensor, shape ``(n, n)``, finite weights >= 0; duplicate entries are summed.

    Returns:
        Coalesced sparse COO tensor, shape ``(n, n)``, float32, non-zero entries only, on the same device.

    Raises:
        ValueError: If ``adjacency`` is not sparse COO, not square, or has a negative or non-finite weight.

    Example:
        >>> directed = torch.tensor([[0.0, 4.0], [1.0, 0.0]]).to_sparse()
        >>> normalize_adjacency(directed).to_dense()
        tensor([[0.0000, 2.0000],
                [0.5000, 0.0000]])
    """
    if adjacency.dim() != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"adjacency must be square, got shape {tuple(adjacency.shape)}")
    index, weight = _entries(adjacency, "adjacency")
    scale = _inverse_root_of_sums(weight, index[0], adjacency.shape[0])
    return _scaled(index, weight, scale, scale)


def normalize_bipartite(interactions: Tensor) -> Tensor:
    r"""Divide each interaction by the square roots of its user's and its item's degree.

    .. math::
        \bar R = D_U^{-1/2} R D_I^{-1/2}

    Source: Eq. 11 of SIGER. :math:`D_U` holds the row sums, :math:`D_I` the column sums. Empty rows and
    columns stay empty.

    Args:
        interactions: Sparse COO tensor, shape ``(U, I)``, 0/1.

    Returns:
        Coalesced sparse COO tensor, shape ``(U, I)``, float32, in [0, 1], on the same device.

    Raises:
        ValueError: If ``interactions`` is not a sparse COO matrix or has a negative or non-finite weight.

    Example:
        >>> normalize_bipartite(torch.tensor([[1.0, 1.0], [0.0, 1.0]]).to_sparse()).to_dense()
        tensor([[0.7071, 0.5000],
                [0.0000, 0.7071]])
    """
    if interactions.dim() != 2:
        raise ValueError(f"interactions must have 2 dimensions, got shape {tuple(interactions.shape)}")
    index, weight = _entries(interactions, "interactions")
    left = _inverse_root_of_sums(weight, index[0], interactions.shape[0])
    right = _inverse_root_of_sums(weight, index[1], interactions.shape[1])
    return _scaled(index, weight, left, right)


def normalize_rows(adjacency: Tensor) -> Tensor:
    r"""Divide each edge by the degree of the node at which the edge starts.

    .. math::
        \bar A = D^{-1} A, \qquad D_{ii} = \sum_j A_{ij}

    Source: the public code of LATTICE. An empty row stays empty; every other row sums to 1.

    Args:
        adjacency: Sparse COO tensor, shape ``(n, m)``, finite weights >= 0; duplicate entries are summed.

    Returns:
        Coalesced sparse COO tensor, shape ``(n, m)``, float32, in [0, 1], on the same device.

    Raises:
        ValueError: If ``adjacency`` is not a sparse COO matrix or has a negative or non-finite weight.

    Example:
        >>> normalize_rows(torch.tensor([[3.0, 1.0], [0.0, 0.0]]).to_sparse()).to_dense()
        tensor([[0.7500, 0.2500],
                [0.0000, 0.0000]])
    """
    if adjacency.dim() != 2:
        raise ValueError(f"adjacency must have 2 dimensions, got shape {tuple(adjacency.shape)}")
    index, weight = _entries(adjacency, "adjacency")
    scale = _inverse_root_of_sums(weight, index[0], adjacency.shape[0]).square()
    return _scaled(index, weight, scale, weight.new_ones(adjacency.shape[1]))


def weighted_sum(graphs: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
    r"""Add graphs of the same nodes: :math:`\sum_m a_m S_m`.

    Graphs and weights may carry gradients.

    Args:
        graphs: Sparse COO tensors of one shape ``(n, m)``, at least one.
        weights: One number for each graph.

    Returns:
        Coalesced sparse COO tensor, shape ``(n, m)``.

    Raises:
        ValueError: If the numbers of weights and graphs differ, or the shapes differ.

    Example:
        >>> one, other = torch.tensor([[[1.0, 0.0]], [[1.0, 2.0]]])
        >>> weighted_sum([one.to_sparse(), other.to_sparse()], [0.5, 2.0]).to_dense()
        tensor([[2.5000, 4.0000]])
    """
    shapes = {tuple(graph.shape) for graph in graphs}
    if len(graphs) != len(weights) or len(shapes) != 1:
        raise ValueError(f"graphs of one shape and a weight each, got {shapes or None} and {weights}")
    n, m = graphs[0].shape
    graphs = [graph.coalesce() for graph in graphs]
    value = torch.cat([weight * graph.values() for graph, weight in zip(graphs, weights, strict=True)])
    return sparse_matrix(torch.cat([graph.indices() for graph in graphs], dim=1), value, (n, m))


def sparse_matrix(index: Tensor, value: Tensor, shape: tuple[int, int], *, ordered: bool = False) -> Tensor:
    """Make a sparse matrix from its entries; entries at the same position are summed.

    Args:
        index: Rows then columns, shape ``(2, nnz)``, int64.
        value: Weights, shape ``(nnz,)``.
        shape: Rows and columns of the matrix.
        ordered: The entries are in the order of rows, then columns, each position once. They are then checked
            but not sorted, which saves most of the time and memory.

    Returns:
        Coalesced sparse COO tensor, on the device and of the type of ``value``.

    Raises:
        RuntimeError: If an index is outside ``shape``, or entries are not as ``ordered`` says; from torch.

    Example:
        >>> twice = torch.tensor([[0, 0], [1, 1]])
        >>> sparse_matrix(twice, torch.tensor([2.0, 3.0]), (1, 2)).to_dense().tolist()
        [[0.0, 5.0]]
    """
    return torch.sparse_coo_tensor(
        index, value, shape, device=value.device, check_invariants=True, is_coalesced=ordered or None
    ).coalesce()


def _entries(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return rows and columns, ``(2, nnz)``, and float64 weights, ``(nnz,)``, after checking the weights."""
    if matrix.layout != torch.sparse_coo:
        raise ValueError(f"{name} must be a sparse COO tensor, got layout {matrix.layout}")
    matrix = matrix.coalesce()
    weight = matrix.values().double()
    refused = weight[~(torch.isfinite(weight) & (weight >= 0))]
    if len(refused):
        raise ValueError(f"{name} must have finite weights >= 0, got {refused[0].item()}")
    return matrix.indices(), weight


def _inverse_root_of_sums(weight: Tensor, index: Tensor, size: int) -> Tensor:
    """Return the inverse square root of each node's sum, ``(size,)``, and 0 where the sum is 0."""
    # float64: the order of the sums differs between devices, and the difference must not appear in float32.
    degree = torch.zeros(size, dtype=weight.dtype, device=weight.device).index_add_(0, index, weight)
    return torch.where(degree > 0, degree, torch.inf).rsqrt()  # selected first: 0 has no gradient here


def _scaled(index: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Multiply rows by ``left`` and columns by ``right``; remove zeros."""
    row, col = index
    # Multiply both scales first: the product commutes, so a symmetric matrix is symmetric to the last bit.
    value = (weight * (left[row] * right[col])).float()
    kept = value > 0
    if not kept.all():
        index, value = index[:, kept], value[kept]
    return sparse_matrix(index, value, (len(left), len(right)), ordered=True)
