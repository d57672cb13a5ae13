"""The enhanced item-item semantic graph, Eqs. 5 and 7 of SIGER (arXiv 2508.06154)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix

__all__ = ["build_eisg"]


def build_eisg(co_graph: Tensor, semantic_graph: Tensor, co_weight: float) -> Tensor:
    r"""Mix the co-occurrence graph into the semantic graph of one modality.

    .. math::
        \bar S_m = \beta \bar C + (1 - \beta) \bar H_m

    Source: Eqs. 5 and 7 of SIGER. Both graphs come in un-normalised and are normalised here. An item without
    an edge in one graph keeps its edges of the other. At 0 the result is the normalised semantic graph (the
    ablation SIGER/EISG), at 1 the normalised co-occurrence graph; no edge of weight zero is stored.

    Args:
        co_graph: Top-K co-occurrence graph, sparse COO, shape ``(I, I)``, weights >= 0.
        semantic_graph: Top-K similarity graph, sparse COO, shape ``(I, I)``, weights >= 0.
        co_weight: Share β of the co-occurrence graph, in [0, 1].

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, weights > 0.

    Raises:
        ValueError: If ``co_weight`` is outside [0, 1], the shapes differ, or a graph cannot be normalised.

    Example:
        >>> co, semantic = torch.tensor([[[0.0, 0.5], [0.5, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
        >>> build_eisg(co.to_sparse(), semantic.to_sparse(), 0.25).to_dense()
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    if not 0 <= co_weight <= 1:
        raise ValueError(f"co_weight must be in [0, 1], got {co_weight}")
    if co_graph.shape != semantic_graph.shape:
        shapes = f"{tuple(co_graph.shape)} and {tuple(semantic_graph.shape)}"
        raise ValueError(f"co_graph and semantic_graph must have the same shape, got {shapes}")
    co = normalize_adjacency(co_graph)
    semantic = normalize_adjacency(semantic_graph)
    index = torch.cat((co.indices(), semantic.indices()), dim=1)
    value = torch.cat((co_weight * co.values(), (1 - co_weight) * semantic.values()))
    kept = value > 0
    return sparse_matrix(index[:, kept], value[kept], (len(co), len(co)))
