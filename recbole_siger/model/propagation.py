"""Products with fixed sparse matrices, and propagation over graphs: Eqs. 1-2 and 10 of SIGER."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.model.csr import Csr
from recbole_siger.model.device import Choices, choices
from recbole_siger.model.layers import UserItem, unit_rows

__all__ = [
    "SparseMatrix",
    "ValuedMatrix",
    "propagate_last",
    "propagate_mean",
    "propagate_refined",
    "propagate_user_item",
    "sparse_product",
]


class _Factor:
    """Multiplication by a sparse matrix, with gradients by its transpose."""

    shape: torch.Size

    def pair(self) -> tuple[Csr, Csr]:
        """Return the matrix and its transpose."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` can be multiplied: ``(m, d)``."""
        if x.dim() != 2 or x.shape[0] != self.shape[1]:
            raise ValueError(f"x must have shape ({self.shape[1]}, d), got {tuple(x.shape)}")

    def times(self, x: Tensor) -> Tensor:
        """Multiply: ``(m, d)`` to ``(n, d)``."""
        self.check(x)
        product: Tensor = _SparseProduct.apply(x, *self.pair(), choices(x))
        return product


class SparseMatrix(_Factor, nn.Module):
    r"""A fixed sparse matrix that multiplies dense ones.

    Gradients flow to the dense factor through the stored transpose, never to the matrix. The arrays are
    buffers: they follow the module to its device and stay out of checkpoints.

    Args:
        matrix: Sparse COO tensor, shape ``(n, m)``; duplicate entries are summed.
        symmetric: The matrix equals its transpose, which is then not stored a second time.

    Raises:
        ValueError: If ``matrix`` is not a sparse COO matrix, or is not as symmetric as said.

    Example:
        >>> matrix = SparseMatrix(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]]).to_sparse())
        >>> matrix(torch.tensor([[1.0], [10.0], [100.0]])).tolist()
        [[20.0], [301.0]]
    """

    crow: Tensor  # (n + 1,) x int64
    col: Tensor  # (nnz,) x int64
    val: Tensor  # (nnz,) x float32
    transposed_crow: Tensor  # (m + 1,) x int64; absent, as the next two, where symmetric
    transposed_col: Tensor
    transposed_val: Tensor

    def __init__(self, matrix: Tensor, *, symmetric: bool = False) -> None:
        super().__init__()
        if matrix.layout != torch.sparse_coo or matrix.dim() != 2:
            given = f"{matrix.layout} of shape {tuple(matrix.shape)}"
            raise ValueError(f"matrix must be 2-d sparse COO, got {given}")
        matrix = matrix.detach().coalesce()
        transpose = matrix.t().coalesce()
        if symmetric and not _equal(matrix, transpose):
            raise ValueError(f"matrix of shape {tuple(matrix.shape)} was given as symmetric and is not")
        self.shape = matrix.shape
        self.symmetric = symmetric
        self._order: Tensor | None = None
        self._bags: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._register("", matrix)
        if not symmetric:
            self._register("transposed_", transpose)

    def _register(self, prefix: str, matrix: Tensor) -> None:
        for name, array in zip(("crow", "col", "val"), _csr_arrays(matrix), strict=True):
            self.register_buffer(prefix + name, array, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: ``(m, d)`` to ``(n, d)``, in the type of ``x``.

        Raises:
            ValueError: If ``x`` has another shape.
        """
        return self.times(x)

    def pair(self) -> tuple[Csr, Csr]:
        """Return the matrix and its transpose."""
        matrix = Csr(self.crow, self.col, self.val, self.shape[1], self._bags[0])
        if self.symmetric:
            return matrix, matrix
        arrays = self.transposed_crow, self.transposed_col, self.transposed_val
        return matrix, Csr(*arrays, self.shape[0], self._bags[1])

    def with_values(self, value: Tensor) -> ValuedMatrix:
        """Return a matrix of the same pattern with other values; an entry of 0 is an edge that is left out.

        The first call sorts the entries for the transpose, which takes 8 bytes for each entry.

        Args:
            value: One number for each stored entry in the order of ``val``, shape ``(nnz,)``. The numbers get
                no gradient. They need not be symmetric, even if the matrix is.

        Raises:
            ValueError: If ``value`` has another shape.
        """
        if value.shape != self.val.shape:
            raise ValueError(f"value must have shape ({len(self.val)},), got {tuple(value.shape)}")
        if self._order is None or self._order.device != self.col.device:
            self._order = self.col.argsort(stable=True)
        matrix, transpose = self.pair()
        value = value.detach()
        return ValuedMatrix(replace(matrix, val=value), replace(transpose, val=value[self._order]))

    def extra_repr(self) -> str:
        """Say the size, for ``print(model)``."""
        return f"{self.shape[0]} x {self.shape[1]}, {len(self.val)} non-zeros"


class ValuedMatrix(_Factor):
    """What :meth:`SparseMatrix.with_values` returns: it multiplies like a :class:`SparseMatrix`."""

    def __init__(self, matrix: Csr, transpose: Csr) -> None:
        self.shape = torch.Size((len(matrix.crow) - 1, matrix.n_columns))
        self._pair = matrix, transpose

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: ``(m, d)`` to ``(n, d)``, in the type of ``x``."""
        return self.times(x)

    def pair(self) -> tuple[Csr, Csr]:
        """Return the matrix and its transpose."""
        return self._pair


class _SparseProduct(torch.autograd.Function):
    """A x with the gradient A^T g. torch's own backward would transpose A again at every step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Csr, transpose: Csr, how: Choices) -> Tensor:
        ctx.matrix, ctx.transpose, ctx.how = matrix, transpose, how
        return matrix.times(x.contiguous(), how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _SparseProduct.apply(grad, ctx.transpose, ctx.matrix, ctx.how), None, None, None


def _csr_arrays(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    row, col = matrix.indices()
    crow = torch.zeros(matrix.shape[0] + 1, dtype=torch.int64, device=row.device)
    crow[1:] = torch.bincount(row, minlength=matrix.shape[0]).cumsum(0)
    return crow, col.contiguous(), matrix.values().float()


def _equal(left: Tensor, right: Tensor) -> bool:
    """Compare two coalesced sparse tensors up to rounding."""
    same_places = left.shape == right.shape and torch.equal(left.indices(), right.indices())
    return same_places and torch.allclose(left.values(), right.values())


def propagate_mean(matrix: SparseMatrix | ValuedMatrix, x: Tensor, n_layers: int) -> Tensor:
    r"""Average the embeddings of layers 0 to L (LightGCN).

    .. math::
        \hat E = \frac{1}{L+1} \sum_{l=0}^{L} A^l E = \frac{E + A (E + A (E + \dots))}{L + 1}

    Source: Eqs. 1-2 of SIGER. The nested form keeps one table instead of L + 1. Nodes without neighbours keep
    ``x / (L + 1)``.

    Args:
        matrix: Normalised adjacency A, shape ``(n, n)``.
        x: Embeddings of layer 0, shape ``(n, d)``.
        n_layers: L, >= 0; 0 returns ``x``.

    Returns:
        Mean embeddings, shape ``(n, d)``.

    Raises:
        ValueError: If ``n_layers`` is negative or the shapes do not fit.

    Example:
        >>> swap = SparseMatrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse(), symmetric=True)
        >>> propagate_mean(swap, torch.tensor([[0.0], [3.0]]), n_layers=2).tolist()
        [[1.0], [2.0]]
    """
    _check_layers(n_layers)
    matrix.check(x)
    mean: Tensor = _MeanPropagation.apply(x, *matrix.pair(), n_layers, choices(x))
    return mean


def propagate_last(matrix: Callable[[Tensor], Tensor], x: Tensor, n_layers: int) -> Tensor:
    r"""Propagate and keep the last layer only.

    .. math::
        \tilde E = S^L E

    Source: Eq. 10 of SIGER. Nodes without neighbours become zero.

    Args:
        matrix: Normalised graph S, shape ``(n, n)``, or what multiplies by it.
        x: Embeddings of layer 0, shape ``(n, d)``.
        n_layers: L, >= 0; 0 returns ``x``.

    Returns:
        Embeddings of layer L, shape ``(n, d)``.

    Raises:
        ValueError: If ``n_layers`` is negative or the shapes do not fit.

    Example:
        >>> double = SparseMatrix(torch.tensor([[2.0]]).to_sparse())
        >>> propagate_last(double, torch.tensor([[1.0]]), n_layers=3).item()
        8.0
    """
    _check_layers(n_layers)
    for _ in range(n_layers):
        x = matrix(x)
    return x


def propagate_refined(matrix: Callable[[Tensor], Tensor], x: Tensor, n_layers: int) -> Tensor:
    r"""Sum layers that are weighted by their likeness to the embeddings of layer 0.

    .. math::
        P_l = A H_{l-1}, \qquad H_l = \cos(P_l, E) \odot P_l, \qquad H_0 = E, \qquad \sum_{l=1}^{L} H_l

    Source: LayerGCN (arXiv 2207.11088). Cosines are by row and carry gradients; a row of zeros has cosine 0.
    A node without neighbours becomes zero. Layer 0 is not added.

    Args:
        matrix: Normalised adjacency A, shape ``(n, n)``, or a function that multiplies by A.
        x: Embeddings of layer 0, shape ``(n, d)``.
        n_layers: L, >= 1.

    Returns:
        Sum of the refined layers, shape ``(n, d)``.

    Raises:
        ValueError: If ``n_layers`` is below 1 or the shapes do not fit.

    Example:
        >>> swap = SparseMatrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse(), symmetric=True)
        >>> propagate_refined(swap, torch.tensor([[1.0], [-3.0]]), n_layers=1).tolist()
        [[3.0], [-1.0]]
    """
    if n_layers < 1:
        raise ValueError(f"n_layers must be at least 1, got {n_layers}")
    unit, layer, total = unit_rows(x), x, torch.zeros_like(x)
    for _ in range(n_layers):
        gathered = matrix(layer)
        layer = torch.linalg.vecdot(unit_rows(gathered), unit).unsqueeze(1) * gathered
        total = total + layer
    return total


def propagate_user_item(
    norm_adj: SparseMatrix | ValuedMatrix, user: Tensor, item: Tensor, n_layers: int
) -> UserItem:
    """Propagate users and items over their bipartite graph and average the layers: LightGCN.

    Args:
        norm_adj: Normalised adjacency, shape ``(N, N)`` with N = U + I, users first.
        user: Embeddings of layer 0, shape ``(U, d)``.
        item: Embeddings of layer 0, shape ``(I, d)``.
        n_layers: L, >= 0.

    Returns:
        Mean embeddings, shapes ``(U, d)`` and ``(I, d)``.

    Example:
        >>> swap = SparseMatrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse(), symmetric=True)
        >>> propagate_user_item(swap, torch.tensor([[0.0]]), torch.tensor([[3.0]]), n_layers=2)
        UserItem(user=tensor([[1.]]), item=tensor([[2.]]))
    """
    mean = propagate_mean(norm_adj, torch.cat([user, item]), n_layers)
    return UserItem(*mean.split([len(user), len(item)]))


def sparse_product(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply by a sparse matrix whose values are learned, as a graph of learned similarities.

    Gradients flow to both factors. The memory is the memory of the matrix and of one table. For a fixed
    matrix, :class:`SparseMatrix` stores what this function computes at each call.

    Args:
        matrix: Sparse COO tensor, shape ``(n, m)``, of the type of ``x``; may carry gradients.
        x: Dense factor, shape ``(m, d)``.

    Returns:
        The product, shape ``(n, d)``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> value = torch.tensor([2.0, 3.0], requires_grad=True)
        >>> matrix = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), value, (2, 2))
        >>> sparse_product(matrix, torch.tensor([[1.0], [10.0]])).sum().backward()
        >>> value.grad
        tensor([10.,  1.])
    """
    if matrix.dim() != 2 or x.dim() != 2 or matrix.shape[1] != x.shape[0]:
        shapes = f"{tuple(matrix.shape)} and {tuple(x.shape)}"
        raise ValueError(f"matrix and x must have shapes (n, m) and (m, d), got {shapes}")
    matrix = matrix.coalesce()
    row, col = matrix.indices()
    first = torch.zeros(len(matrix) + 1, dtype=torch.int64, device=x.device)
    first[1:] = torch.bincount(row, minlength=len(matrix)).cumsum(0)
    return functional.embedding_bag(
        col, x, first, mode="sum", per_sample_weights=matrix.values(), include_last_offset=True
    )


class _MeanPropagation(torch.autograd.Function):
    """(x + A (x + A (x + ...))) / (L + 1), summed in place; its gradient is the same with A^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Csr, transpose: Csr, n_layers: int, how: Choices) -> Tensor:
        ctx.matrix, ctx.transpose, ctx.rest = matrix, transpose, (n_layers, how)
        total = x = x.contiguous()
        for _ in range(n_layers):
            total = matrix.times(total, how).add_(x)
        return total.div_(n_layers + 1) if n_layers else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        back = _MeanPropagation.apply(grad, ctx.transpose, ctx.matrix, *ctx.rest)
        return back, None, None, None, None


def _check_layers(n_layers: int) -> None:
    if n_layers < 0:
        raise ValueError(f"n_layers must be at least 0, got {n_layers}")
