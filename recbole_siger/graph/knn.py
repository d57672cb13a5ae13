"""Graphs of the nearest neighbours by item features.

:func:`semantic_graph` is Eq. 6 of SIGER (arXiv 2508.06154); :func:`knn_graph` is the
item graph of LATTICE, FREEDOM and MGCN; :func:`consistent_graphs` are those of DA-MRS.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recbole_siger.graph import ann
from recbole_siger.graph.cosine import STEP, UnitRows
from recbole_siger.graph.nearest import CROSS_BYTES, NEVER, nearest, nearest_atoms
from recbole_siger.graph.normalize import normalize_adjacency, sparse_matrix
from recbole_siger.graph.ordering import first_k_per_row

__all__ = [
    "consistent_graphs",
    "consistent_rows",
    "knn_graph",
    "mean_cosine",
    "normalized_neighbors",
    "semantic_graph",
    "semantic_rows",
    "similarity_graph",
]


def semantic_graph(features: Tensor, k: int, *, method: str = "exact", chunk_size: int = 1024) -> Tensor:
    r"""Connect every item to the ``k`` items most similar to it, itself included.

    .. math::
        H_{ij} = \frac{1 + \cos(x_i, x_j)}{2} \quad\text{for } j \in \operatorname{top}_k \cos(x_i, \cdot)

    Source: Eq. 6 of SIGER and the rule below it. Directed. The item itself is first, then higher similarity,
    then lower item id. An all-zero row, such as the padding item 0, has no edge in either direction. With
    fewer than ``k`` other items there are fewer edges. Products of few bits only propose candidates. float64
    cosines, rounded to 2^-30, decide, so neither ``chunk_size`` nor the device changes the result of
    ``"exact"``.

    Args:
        features: Raw features, shape ``(I, F)``, any float dtype, finite.
        k: Neighbours of each item, including the item itself, >= 1.
        method: ``"exact"`` compares all pairs. ``"ann"`` compares an item with the items of similar lists in
            few coordinates and ranks the candidates exactly. It chooses the number of lists so that a sample
            has at least .99 of its neighbours, and logs the measured share. Runs on the CPU.
        chunk_size: Rows and columns of a block of ``"exact"``, >= 1; peak memory is about 64 MiB (160 MiB for
            rows in one direction), ``20 * chunk_size * (chunk_size + F)`` bytes, and ``100 * k`` an item.

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, in [0, 1], on ``features.device``.

    Raises:
        ValueError: If ``features`` is not a finite float matrix, ``k`` or ``chunk_size`` is below 1, or
            ``method`` is unknown.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
        >>> semantic_graph(x, k=2).to_dense()
        tensor([[0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.8536, 0.0000],
                [0.0000, 0.8536, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.8536, 1.0000]])
    """
    _check(features, k, method, chunk_size)
    rows = UnitRows(features, keep_few_bits=method == "exact")
    k = min(k, len(rows))
    loops = torch.arange(len(rows), device=features.device)
    pairs, step = torch.stack((loops, loops)), torch.full_like(loops, round(1 / STEP))
    if k > 1 and len(rows) > 1:
        pool, first_equal = rows.duplicates(k)
        if method == "exact":
            found = nearest(rows[pool], k - 1, chunk_size)
        else:
            found = ann.nearest(rows[pool], k - 1)
        others, other_step = _add_duplicates(pool, first_equal, pool[found[0]], found[1], k - 1)
        pairs, step = torch.cat((pairs, others), dim=1), torch.cat((step, other_step))
    weight = (1 + step.double() * STEP) / 2
    return sparse_matrix(rows.index[pairs], weight.float(), (len(features), len(features)))


def _check(features: Tensor, k: int, method: str, chunk_size: int) -> None:
    if features.dim() != 2 or features.numel() == 0 or not features.is_floating_point():
        given = f"{features.dtype} of shape {tuple(features.shape)}"
        raise ValueError(f"features must be a non-empty float matrix, got {given}")
    for name, number in (("k", k), ("chunk_size", chunk_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if method not in ("exact", "ann"):
        raise ValueError(f"method must be 'exact' or 'ann', got {method!r}")


def _add_duplicates(
    pool: Tensor, first_equal: Tensor, pairs: Tensor, step: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Give each row outside ``pool`` the neighbours of the first row that equals it, and that row.

    ``pairs``, ``(2, n)``, and ``step``, ``(n,)``, are the neighbours of the pool's rows, ordered in each row.
    """
    outside = torch.ones_like(first_equal, dtype=torch.bool)
    outside[pool] = False
    (row,) = outside.nonzero(as_tuple=True)
    if not len(row):
        return pairs, step
    count = torch.bincount(pairs[0], minlength=len(first_equal))
    start, first = count.cumsum(0) - count, first_equal[row]
    repeats = count[first]
    position = torch.arange(int(repeats.sum()), device=row.device)
    position += (start[first] - (repeats.cumsum(0) - repeats)).repeat_interleave(repeats)
    copied = torch.stack((row.repeat_interleave(repeats), pairs[1, position]))
    one = torch.full_like(row, round(1 / STEP))
    copied = torch.cat((copied, torch.stack((row, first))), dim=1)
    copied_step = torch.cat((step[position], one))
    kept = first_k_per_row(copied[0], k, -copied_step, copied[1])
    return torch.cat((pairs, copied[:, kept]), dim=1), torch.cat((step, copied_step[kept]))


def knn_graph(features: Tensor, k: int, weight: str) -> Tensor:
    r"""Build the normalised graph of nearest neighbours of LATTICE, FREEDOM and MGCN.

    .. math::
        \bar S = D^{-1/2} S D^{-1/2}, \qquad S_{ij} = \max(\cos(x_i, x_j), 0) \text{ or } 1
        \quad\text{for } j \in \operatorname{top}_k \cos(x_i, \cdot)

    Source: LATTICE (arXiv 2104.09036) for the cosine, FREEDOM (arXiv 2211.06924) for 1. Neighbours, ties and
    items without a feature are as in :func:`semantic_graph`. Row sums are used on both sides. A negative
    cosine counts as 0, because a negative row sum has no root.

    Args:
        features: Raw features, shape ``(I, F)``, any float dtype, finite.
        k: Neighbours of each item, including the item itself, >= 1.
        weight: ``"cosine"``, or ``"one"`` for every neighbour.

    Returns:
        Coalesced sparse COO tensor, shape ``(I, I)``, float32, >= 0, on ``features.device``.

    Raises:
        ValueError: If ``weight`` is unknown, or for the reasons of :func:`semantic_graph`.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
        >>> knn_graph(x, k=2, weight="one").to_dense()
        tensor([[0.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    return normalized_neighbors(semantic_graph(features, k), weight)


def normalized_neighbors(graph: Tensor, weight: str) -> Tensor:
    """Make the graph of :func:`knn_graph` from the graph of :func:`semantic_graph`: sparse ``(I, I)``.

    Args:
        graph: Weights ``(1 + cos) / 2``, sparse COO, shape ``(I, I)``.
        weight: ``"cosine"``, or ``"one"`` for every neighbour.

    Raises:
        ValueError: If ``weight`` is unknown.
    """
    if weight not in ("cosine", "one"):
        raise ValueError(f"weight must be 'cosine' or 'one', got {weight!r}")
    half_cosine = graph.values()
    value = (2 * half_cosine - 1).clamp_min(0) if weight == "cosine" else torch.ones_like(half_cosine)
    return normalize_adjacency(sparse_matrix(graph.indices(), value, (len(graph), len(graph))))


def semantic_rows(queries: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Give rows outside a table the edges that :func:`semantic_graph` would give each of them alone.

    Args:
        queries: Raw features of the rows, shape ``(n, F)``.
        atoms: Raw features of the table, shape ``(I, F)``.
        k: Neighbours a row, the row itself counted, >= 1.

    Returns:
        Edges, row of ``queries`` then column, ``(2, e)``, where column I + r is row r itself; their weights,
        float32 ``(e,)``.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> index, weight = semantic_rows(torch.tensor([[5.0, 0.0]]), x, 2)
        >>> index.tolist(), weight.tolist()
        ([[0, 0], [3, 1]], [1.0, 1.0])
    """
    rows, table = UnitRows(queries), UnitRows(atoms)
    columns = [torch.stack((rows.index, len(atoms) + rows.index))]
    weights = [torch.ones(len(rows), dtype=torch.float64, device=queries.device)]
    if k > 1:
        for some, found, step in nearest_atoms(rows, table, k - 1, same=False):
            row, place = (found < len(table)).nonzero(as_tuple=True)
            columns.append(torch.stack((rows.index[some][row], table.index[found[row, place]])))
            weights.append((1 + step[row, place].double() * STEP) / 2)
    return torch.cat(columns, dim=1), torch.cat(weights).float()


def similarity_graph(queries: Tensor, atoms: Tensor, k: int, *, same: bool) -> Tensor:
    r"""Connect every query to the ``k`` atoms with the highest cosine, each edge with weight 1.

    Source: Eqs. 4-5 of SCALE (AAAI 2026). Directed. Among equal cosines, the atom with the lower id is
        nearer. A
    negative cosine counts as any other cosine. An all-zero row, such as the padding row 0, has no edge in
    either direction.

    Args:
        queries: Shape ``(A, d)``, any float dtype, finite.
        atoms: Shape ``(B, d)``.
        k: Neighbours of each query, without the query itself, >= 1; fewer if there are fewer atoms.
        same: Both tables are the same table; a row is then not its own neighbour.

    Returns:
        Coalesced sparse COO tensor of ones, shape ``(A, B)``, float32, on ``queries.device``.

    Raises:
        ValueError: If a table is not a finite float matrix, the widths differ, ``k`` is below 1, or the
            tables differ in size with ``same``.

    Example:
        >>> user = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
        >>> item = torch.tensor([[0.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
        >>> similarity_graph(user, item, k=1, same=False).to_dense()
        tensor([[0., 0., 0.],
                [0., 0., 1.]])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    check_tables(queries, atoms, same=same)
    rows, table = UnitRows(queries), UnitRows(atoms)
    parts = []
    for some, found, _ in nearest_atoms(rows, table, k, same=same):
        row, place = (found < len(table)).nonzero(as_tuple=True)
        parts.append(torch.stack((rows.index[some][row], table.index[found[row, place]])))
    return edges_of_one(parts, (len(queries), len(atoms)), queries.device)


def mean_cosine(features: Tensor) -> float:
    r"""Average the cosines of all pairs of items that have a feature, each item with itself included.

    .. math::
        \frac{1}{V^2} \sum_{i, j} \cos(x_i, x_j) = \Bigl\lVert \frac{1}{V} \sum_i \hat x_i \Bigr\rVert^2

    Source: the threshold of DA-MRS (KDD 2024), without a matrix of all pairs.

    Args:
        features: Shape ``(I, F)``, any float dtype, finite; an all-zero row is no item.

    Returns:
        A number in [0, 1]; 0 if no item has a feature.

    Example:
        >>> mean_cosine(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]]))
        0.5
    """
    return _mean_cosine(UnitRows(features))


def _mean_cosine(rows: UnitRows) -> float:
    width = rows.features.shape[1]
    total = torch.zeros(width, dtype=torch.float64, device=rows.index.device)
    size = max(1, CROSS_BYTES // (8 * width))
    part = total.new_empty((min(size, len(rows)), width))
    for first in range(0, len(rows), size):
        last = min(first + size, len(rows))
        total += rows.unit(first, last, part[: last - first]).sum(dim=0)
    return float((total / max(1, len(rows))).square().sum())


def consistent_graphs(features: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    r"""Connect every item to its ``k`` nearest items among those that are similar in every modality.

    .. math::
        S_{m,ij} = 1 \text{ for } j \in \operatorname{top}_k \{\cos(x_{m,i}, x_{m,j}) :
            \cos(x_{m',i}, x_{m',j}) \ge \operatorname{mean} \cos(x_{m'}, x_{m'}) \text{ for all } m'\}

    Source: the consistent graphs of DA-MRS (KDD 2024). The means are those of :func:`mean_cosine`. The item
    itself is first, then higher cosine, then lower item id; an item with fewer such items has fewer edges. An
    item without a feature has no edge in that modality; its pairs are judged by the other modalities. float64
    cosines, rounded to 2^-30, decide on every device.

    Args:
        features: ``{modality: (I, F_m)}``, at least one, any float dtype, finite.
        k: Edges of each item, including the edge to itself, >= 1.

    Returns:
        ``{modality: graph}``, coalesced sparse COO tensors of ones, shape ``(I, I)``, float32.

    Raises:
        ValueError: If a table is not a finite float matrix, the numbers of items differ, or ``k`` is below 1.

    Example:
        >>> image = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> text = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> consistent_graphs({"image": image, "text": text}, k=3)["image"].indices().tolist()
        [[1, 1, 2, 3, 3, 4], [1, 3, 2, 1, 3, 4]]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    others, graphs = _consistent_others(features, features, k - 1, same=True), {}
    for m, x in features.items():
        loops = UnitRows(x).index.expand(2, -1)
        graphs[m] = edges_of_one([loops, *others[m]], (len(x), len(x)), x.device)
    return graphs


def consistent_rows(queries: Mapping[str, Tensor], atoms: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Give rows outside the tables the edges that :func:`consistent_graphs` would give each of them alone.

    The thresholds are those of the tables.

    Args:
        queries: Raw features of the rows, ``{modality: (n, F_m)}``.
        atoms: Raw features of the tables, ``{modality: (I, F_m)}``.
        k: Edges a row, the edge to itself counted, >= 1.

    Returns:
        ``{modality: (2, e)}``, row of ``queries`` then column, where column I + r is row r itself.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> consistent_rows({"text": torch.tensor([[5.0, 0.0]])}, {"text": x}, 3)["text"].tolist()
        [[0, 0], [3, 1]]
    """
    others, found = _consistent_others(queries, atoms, k - 1, same=False), {}
    for m, x in queries.items():
        row = UnitRows(x).index
        found[m] = torch.cat([torch.stack((row, len(atoms[m]) + row)), *others[m]], dim=1)
    return found


def _consistent_others(
    queries: Mapping[str, Tensor], atoms: Mapping[str, Tensor], k: int, *, same: bool
) -> dict[str, list[Tensor]]:
    """Return the pairs of each modality in parts, ``(2, n)``, without pairs of a row with itself."""
    for m, x in atoms.items():
        check_tables(queries[m], x, same=same)
    first, *_ = atoms
    n_queries, n_atoms = len(queries[first]), len(atoms[first])
    for m, x in atoms.items():
        if len(x) != n_atoms:
            raise ValueError(f"{first} {n_atoms} and {m} {len(x)} items; use tables of equal length")
    rows, tables = ({m: UnitRows(x) for m, x in group.items()} for group in (queries, atoms))
    least = {m: round(_mean_cosine(table) / STEP) for m, table in tables.items()}
    parts: dict[str, list[Tensor]] = {m: [] for m in atoms}
    device = atoms[first].device
    order = torch.arange(n_atoms - 1, -1, -1, device=device)
    size = max(1, min(1024, CROSS_BYTES // (8 * n_atoms)))
    for start in range(0, n_queries if k else 0, size):
        ids = torch.arange(start, min(start + size, n_queries), device=device)
        steps = {m: _steps(rows[m], tables[m], ids, n_atoms) for m in atoms}
        refused = torch.zeros((len(ids), n_atoms), dtype=torch.bool, device=device)
        if same:
            refused[torch.arange(len(ids), device=device), ids] = True
        for m, step in steps.items():
            refused |= (step < least[m]) & (step != NEVER)
        for m, step in steps.items():
            key = (step * n_atoms + order).masked_fill_(refused | (step == NEVER), NEVER)
            found = key.topk(min(k, n_atoms), dim=1)
            row, place = (found.values != NEVER).nonzero(as_tuple=True)
            parts[m].append(torch.stack((ids[row], found.indices[row, place])))
    return parts


def _steps(rows: UnitRows, table: UnitRows, ids: Tensor, n_atoms: int) -> Tensor:
    """Return the cosines of consecutive rows with all atoms: ``(n, I)``, in units of ``STEP``.

    ``NEVER`` stands where the row or the atom has no feature. ``ids`` are the consecutive rows, ``(n,)``.
    """
    steps = torch.full((len(ids), n_atoms), NEVER, device=ids.device)
    start, stop = torch.searchsorted(rows.index, torch.stack((ids[0], ids[-1] + 1))).tolist()
    width = table.features.shape[1]
    left = rows.unit(start, stop, torch.empty((stop - start, width), dtype=torch.float64, device=ids.device))
    place = (rows.index[start:stop] - ids[0]).unsqueeze(1)
    chunk = max(1, CROSS_BYTES // (8 * width))
    for first in range(0, len(table), chunk):
        last = min(first + chunk, len(table))
        part = left.new_empty((last - first, width))
        cosine = left @ table.unit(first, last, part).T
        steps[place, table.index[first:last]] = (cosine.clamp_(-1, 1) / STEP).round_().long()
    return steps


def check_tables(queries: Tensor, atoms: Tensor, *, same: bool) -> None:
    """Raise ``ValueError`` unless both are float matrices of equal width, and of equal size with ``same``."""
    for name, table in (("queries", queries), ("atoms", atoms)):
        if table.dim() != 2 or table.numel() == 0 or not table.is_floating_point():
            given = f"{table.dtype} of shape {tuple(table.shape)}"
            raise ValueError(f"{name} must be a non-empty float matrix, got {given}")
    if queries.shape[1] != atoms.shape[1]:
        raise ValueError(f"queries are {queries.shape[1]} wide and atoms {atoms.shape[1]}; use equal widths")
    if same and len(queries) != len(atoms):
        raise ValueError(f"same=True requires one table, got {len(queries)} and {len(atoms)} rows")


def edges_of_one(parts: list[Tensor], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Make a 0/1 matrix from parts of its entries, ``(2, n)`` each."""
    index = torch.cat(parts, dim=1) if parts else torch.empty((2, 0), dtype=torch.int64, device=device)
    return sparse_matrix(index, torch.ones(index.shape[1], device=device), shape)
