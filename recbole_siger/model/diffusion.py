"""Propagation over graphs that lose entries anew at each step, and propagation with a restart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_siger.model.propagation import SparseMatrix, ValuedMatrix

__all__ = ["drop_entries", "propagate_restart"]


def drop_entries(
    matrix: SparseMatrix, keep: float, *, rescale: bool = True, generator: torch.Generator | None = None
) -> SparseMatrix | ValuedMatrix:
    r"""Keep each stored entry of a matrix with a probability, the two directions of an edge independently.

    .. math::
        A'_{ij} = A_{ij} b_{ij} / p, \qquad b_{ij} \sim \mathrm{Bernoulli}(p)

    Source: MIG-GT (AAAI 2025). The degrees do not change: the result is not normalised again. RLMRec (WWW
    2024) does not divide by p.

    Args:
        matrix: The matrix A, shape ``(n, m)``.
        keep: p, in (0, 1]; 1 returns ``matrix`` itself and draws nothing.
        rescale: Divide the kept entries by p, so that the expected product is that of ``matrix``.
        generator: Source of the draw, on the device of the matrix; None for torch's global generator.

    Returns:
        A matrix of the same pattern for one step. Gradients flow to the dense factor.

    Raises:
        ValueError: If ``keep`` is out of range.

    Example:
        >>> matrix = SparseMatrix(torch.ones(2, 3).to_sparse())
        >>> whole = drop_entries(matrix, 1.0)
        >>> whole is matrix
        True
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    if keep == 1:
        return matrix
    value = matrix.val
    kept = torch.rand(len(value), generator=generator, device=value.device).lt_(keep)
    return matrix.with_values(value * kept / (keep if rescale else 1))


def propagate_restart(
    matrix: Callable[[Tensor], Tensor], x: Tensor, n_layers: int, *, restart: float = 0.1
) -> Tensor:
    r"""Propagate, and return to the embeddings of layer 0 by a share in each layer.

    .. math::
        Y_l = (1 - \alpha) A Y_{l-1} + \alpha X, \qquad Y_0 = X

    Source: MGDCF and MIG-GT, with the shares .9 and .1. A node without neighbours keeps α of ``x`` from the
    first layer on.

    Args:
        matrix: Normalised graph A, shape ``(n, n)``, or a function that multiplies by A.
        x: Embeddings X of layer 0, shape ``(n, d)``.
        n_layers: Number of layers, >= 0; 0 returns ``x``.
        restart: α, in [0, 1].

    Returns:
        Embeddings of the last layer, shape ``(n, d)``.

    Raises:
        ValueError: If ``n_layers`` is negative, ``restart`` is out of range or the shapes do not fit.

    Example:
        >>> swap = SparseMatrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse(), symmetric=True)
        >>> propagate_restart(swap, torch.tensor([[0.0], [8.0]]), 2, restart=0.5).tolist()
        [[2.0], [6.0]]
    """
    if n_layers < 0:
        raise ValueError(f"n_layers must be at least 0, got {n_layers}")
    if not 0 <= restart <= 1:
        raise ValueError(f"restart must be in [0, 1], got {restart}")
    first = restart * x
    for _ in range(n_layers):
        x = torch.add(first, matrix(x), alpha=1 - restart)
    return x
