"""The item graph of LATTICE, FREEDOM and MGCN: nearest neighbours by features, normalised."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix

__all__ = ["knn_graph"]


def knn_graph(features: Tensor, k: int, weight: str) -> Tensor:
    r"""Build the normalised graph of nearest neighbours that LATTICE, FREEDOM and MGCN multiply by.

    .. math::
        \bar S = D^{-1/2} S D^{-1/2}, \qquad S_{ij} = \max(\cos(x_i, x_j), 0) \text{ or } 1
        \quad\text{for } j \in \operatorname{top}_k \cos(x_i, \cdot)

    Source: LATTICE (arXiv 2104.09036) for the cosine, FREEDOM (arXiv 2211.06924) for 1. Neighbours, ties and
    items without a feature are those of :func:`semantic_graph`; row sums serve on both sides. A
    negative cosine counts as 0, for a negative row sum has no root.

    Args:
        features: Raw features, shape ``(I, F)``, any float dtype, finite.
        k: Neighbours per item, the item itself counted, >= 1.
        weight: ``"cosine"``, or ``"one"`` for every neighbour.

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, >= 0, on ``features.device``.

    Raises:
        ValueError: If ``weight`` is unknown, or as :func:`semantic_graph` says.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
        >>> knn_graph(x, k=2, weight="one").to_dense()
        tensor([[0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    graph = semantic_graph(features, k)
    if weight not in ("cosine", "one"):
        raise ValueError(f"weight must be 'cosine' or 'one', got {weight!r}")
    half_cosine = graph.values()
    value = (2 * half_cosine - 1).clamp_min(0) if weight == "cosine" else torch.ones_like(half_cosine)
    return normalize_adjacency(sparse_matrix(graph.indices(), value, (len(features), len(features))))
