"""Which items look alike: the top-K graph of feature similarity, Eq. 6 of SIGER (arXiv 2508.06154)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix

__all__ = ["first_k_per_row", "knn_graph", "semantic_graph"]

# Float32 products of unit rows can swap two pairs only if their errors together exceed this; at 4096 features
# an error stays below 1e-6. Closer pairs are computed again in float64.
MARGIN = 2e-5
# Cosines are compared and stored as multiples of this (about 1e-9): float64 sums in any order agree on it. A
# power of two, so that common cosines such as 1/2 lie on a step and not between two.
STEP = 2.0**-30
PAIR_BYTES = 16 * 2**20


def semantic_graph(features: Tensor, k: int, *, chunk_size: int = 1024) -> Tensor:
    r"""Connect every item to the ``k`` items most similar to it, itself included.

    .. math::
        H_{ij} = \frac{1 + \cos(x_i, x_j)}{2} \quad\text{for } j \in \operatorname{top}_k \cos(x_i, \cdot)

    Source: Eq. 6 of SIGER and the rule below it. Directed. The item itself comes first, then higher
    similarity, then lower item id. An all-zero row, among them the padding item 0, has no edge in either
    direction. With fewer than ``k`` other items there are fewer edges. Blocks of float32 products only
    propose candidates; float64 cosines, rounded to 2^-30, decide, so neither ``chunk_size`` nor the device
    changes the result.

    Args:
        features: Raw features, shape ``(I, F)``, any float dtype, finite.
        k: Neighbours per item, the item itself counted, >= 1.
        chunk_size: Rows compared at a time, >= 1; peak memory is about ``12 * I * (chunk_size + 2 * F)``
            bytes.

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, in [0, 1], on ``features.device``.

    Raises:
        ValueError: If ``features`` is not a finite float matrix, or ``k`` or ``chunk_size`` is below 1.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
        >>> semantic_graph(x, k=2).to_dense()
        tensor([[0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.8536, 0.0000],
                [0.0000, 0.8536, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.8536, 1.0000]])
    """
    _check(features, k, chunk_size)
    items = features.ne(0).any(dim=1).nonzero()[:, 0]
    loops = torch.arange(len(items), device=items.device)
    edges = [torch.stack((loops, loops))]
    steps = [torch.full_like(loops, round(1 / STEP))]
    if k > 1 and len(items) > 1:
        unit = _unit_rows(features[items])
        columns = _first_duplicates(features[items], k)
        pool = unit[columns].float()
        for rows in loops.split(chunk_size):
            pairs, step = _candidates(unit, pool, rows, columns, k)
            kept = first_k_per_row(pairs[0], k - 1, -step)  # equal steps stay in the order of item ids
            edges.append(pairs[:, kept])
            steps.append(step[kept])
    weight = (1 + torch.cat(steps).double() * STEP) / 2
    shape = (len(features), len(features))
    return sparse_matrix(items[torch.cat(edges, dim=1)], weight.float(), shape)


def first_k_per_row(row: Tensor, k: int, *keys: Tensor) -> Tensor:
    """Find the ``k`` first entries of each row in ascending order of ``keys``.

    Entries that agree in every key keep their order. Rows with fewer entries keep all of theirs.

    Args:
        row: Row of each entry, shape ``(n,)``, integers in any order.
        k: Entries to keep per row, >= 0.
        keys: Sort keys, most significant first, each of shape ``(n,)``.

    Returns:
        Positions of the kept entries, shape ``(<= n,)``, int64, sorted by row and keys.

    Example:
        >>> first_k_per_row(torch.tensor([5, 3, 5, 5]), 2, torch.tensor([7, 0, 9, 1])).tolist()
        [1, 3, 0]
    """
    order = torch.arange(len(row), device=row.device)
    for key in (*reversed(keys), row):
        order = order[torch.argsort(key[order], stable=True)]
    row = row[order]
    rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    return order[rank < k]


def _check(features: Tensor, k: int, chunk_size: int) -> None:
    if features.dim() != 2 or features.numel() == 0 or not features.is_floating_point():
        given = f"{features.dtype} of shape {tuple(features.shape)}"
        raise ValueError(f"features must be a non-empty float matrix, got {given}")
    bad = features.isfinite().all(dim=1).logical_not().nonzero()
    if len(bad):
        raise ValueError(f"features must be finite, row {bad[0].item()} is not")
    for name, number in (("k", k), ("chunk_size", chunk_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _unit_rows(features: Tensor) -> Tensor:
    """Scale non-zero rows to length 1 in float64, ``(V, F)``, whatever their magnitude."""
    unit = features.double()
    unit = unit / unit.abs().amax(dim=1, keepdim=True)  # so that no square overflows or vanishes
    return unit / unit.norm(dim=1, keepdim=True)


def _first_duplicates(features: Tensor, k: int) -> Tensor:
    """Return the rows that can be neighbours, ``(<= V,)``, ascending.

    Of equal rows only the ``k`` first can be: each of them is as similar to anything and has a lower id. This
    bounds the candidates when hundreds of items share one vector.
    """
    group = torch.unique(features, dim=0, return_inverse=True)[1]
    return first_k_per_row(group, k).sort().values


def _candidates(unit: Tensor, pool: Tensor, rows: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find every pair that may be among the ``k`` best of ``rows``, and its exact cosine.

    ``pool`` is ``unit[columns]`` in float32. Returns pairs (row, column) in that order, self pairs left out,
    ``(2, n)``, and their cosines in units of ``STEP``, ``(n,)``, int64.
    """
    # torch may have been told to multiply float32 in fewer bits (TF32, bfloat16, autocast): the error tells.
    for dtype in (torch.float32, torch.float64):
        score = unit[rows].to(dtype) @ (pool if dtype == torch.float32 else unit[columns]).T
        threshold = score.topk(min(k, len(columns)), dim=1).values[:, -1:] - MARGIN
        position = (score >= threshold).nonzero(as_tuple=True)
        pairs = torch.stack((rows[position[0]], columns[position[1]]))
        exact = _cosines(unit, pairs)
        if (score[position] - exact).abs().max() <= MARGIN / 2:
            break
    other = pairs[0] != pairs[1]
    return pairs[:, other], (exact[other] / STEP).round().long()


def _cosines(unit: Tensor, pairs: Tensor) -> Tensor:
    """Compute the cosines of pairs, ``(2, n)`` to ``(n,)``, in [-1, 1], within a fixed amount of memory."""
    block = max(1, PAIR_BYTES // (2 * unit.element_size() * unit.shape[1]))
    parts = [(unit[i] * unit[j]).sum(dim=1) for i, j in zip(*(p.split(block) for p in pairs), strict=True)]
    return torch.cat(parts).clamp(-1, 1)


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
