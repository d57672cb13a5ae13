"""The item-item graphs of SIGER (arXiv 2508.06154), Eqs. 3-7: co-occurrence, semantic, and their mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix

__all__ = ["ItemGraphs", "build_eisg", "item_graphs"]


class ItemGraphs(NamedTuple):
    """The graphs of one modality, sparse COO, shape ``(I, I)`` each.

    Attributes:
        co_graph: Top-K co-occurrence graph, Eq. 4; the same for every modality.
        semantic: Top-K similarity graph of the features, Eq. 6.
        eisg: Their normalised mixture, Eq. 7.
    """

    co_graph: Tensor
    semantic: Tensor
    eisg: Tensor


def item_graphs(
    train_edges: Tensor,
    features: Mapping[str, Tensor],
    cache: GraphCache,
    *,
    co_occurrence: Mapping[str, int | str],
    semantic: Mapping[str, int | str],
    co_weight: float,
) -> dict[str, ItemGraphs]:
    """Build the item-item graphs of every modality, or read them from the cache.

    Args:
        train_edges: Training interactions, users then items, shape ``(2, E)``.
        features: ``{modality: (I, F_m)}``.
        cache: Where graphs are stored.
        co_occurrence: Arguments of :func:`co_occurrence_graph` besides the edges.
        semantic: Arguments of :func:`semantic_graph` besides the features.
        co_weight: Share β of the co-occurrence graph, in [0, 1].

    Returns:
        ``{modality: graphs}``, in the order of ``features``.
    """
    co_graph = cache.cached("co_occurrence", co_occurrence_graph, {"edges": train_edges}, co_occurrence)
    graphs = {}
    for name, x in features.items():
        similar = cache.cached("semantic", semantic_graph, {"features": x}, semantic)
        graphs[name] = ItemGraphs(co_graph, similar, build_eisg(co_graph, similar, co_weight))
    return graphs


def build_eisg(co_graph: Tensor, semantic_graph: Tensor, co_weight: float) -> Tensor:
    r"""Mix the co-occurrence graph into the semantic graph of one modality.

    .. math::
        \bar S_m = \beta \bar C + (1 - \beta) \bar H_m

    Source: Eqs. 5 and 7 of SIGER. Both graphs are given un-normalised and are normalised here. An item
        without
    an edge in one graph keeps its edges of the other graph. At 0 the result is the normalised semantic graph
    (the ablation SIGER/EISG), at 1 the normalised co-occurrence graph. No edge of weight zero is stored.

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
