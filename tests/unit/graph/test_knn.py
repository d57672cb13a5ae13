from __future__ import annotations

import pytest
import torch

from recbole_siger.graph import cosine, nearest
from recbole_siger.graph.knn import knn_graph, semantic_graph, semantic_rows
from recbole_siger.graph.ordering import first_k_per_row

N_ITEMS, WIDTH = 211, 13


def awkward_features() -> torch.Tensor:
    """Noise, zero rows, groups of duplicates, scaled copies, neighbours closer than float32 can tell."""
    x = torch.randn(N_ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))
    x[[0, 5, 100]] = 0
    x[20:60] = x[20]
    x[60:70] = 3 * x[20]
    x[70:80] = x[20] + 1e-6 * x[70:80]
    x[150:160] = -x[20]
    return x


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.indices(), right.indices()) and torch.equal(left.values(), right.values())


@pytest.mark.parametrize("k", [1, 2, 10, 37])
@pytest.mark.parametrize("chunk_size", [11, 64, N_ITEMS])
def test_chunk_size_changes_nothing(chunk_size, k):
    features = awkward_features()
    assert same(semantic_graph(features, k), semantic_graph(features, k, chunk_size=chunk_size))


def test_hundreds_of_duplicates_point_at_the_first_of_them():
    features = torch.ones(307, 3)
    features[0] = 0
    graph = semantic_graph(features, 4, chunk_size=64)
    assert graph.values().unique().tolist() == [1.0]
    neighbours = graph.indices()[1].view(306, 4).tolist()
    assert neighbours[0] == [1, 2, 3, 4]
    assert neighbours[2] == [1, 2, 3, 4]
    assert neighbours[300] == [1, 2, 3, 301]


def test_ties_that_rounding_would_break_go_to_the_lower_id():
    """All items are shuffles of one row, so equally similar to the constant row 0."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(101, generator=generator)
    features = torch.stack(
        [torch.ones(101)] + [row[torch.randperm(101, generator=generator)] for _ in range(40)]
    )
    assert semantic_graph(features, 8).indices()[1, :8].tolist() == list(range(8))


def test_zero_rows_have_no_edge_in_either_direction():
    graph = semantic_graph(awkward_features(), 10)
    assert not torch.isin(graph.indices(), torch.tensor([0, 5, 100])).any()
    assert torch.bincount(graph.indices()[0], minlength=N_ITEMS).unique().tolist() == [0, 10]


def test_each_item_is_its_own_neighbour_with_weight_one():
    diagonal = semantic_graph(awkward_features(), 1)
    row, col = diagonal.indices()
    assert torch.equal(row, col)
    assert diagonal.values().unique().tolist() == [1.0]


@pytest.mark.parametrize("features", [torch.zeros(3, 2), torch.tensor([[0.0], [4.0], [0.0]])])
def test_fewer_items_than_k(features):
    assert semantic_graph(features, 5)._nnz() == int(features.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(dtype):
    features = awkward_features().to(dtype)
    graph = semantic_graph(features, 6)
    assert graph.dtype == torch.float32
    assert same(graph, semantic_graph(features.double(), 6, chunk_size=7))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_length_does_not_matter(scale):
    features = awkward_features().double()
    assert same(semantic_graph(features, 6), semantic_graph(scale * features, 6))


@pytest.mark.parametrize("few_bits", [True, False])
def test_survives_a_matrix_product_that_is_worse_than_its_type(monkeypatch, few_bits):
    """Where products err by more than the type allows (TF32, autocast), those of float64 choose."""
    product, used = nearest._product, []

    def coarse(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        used.append(left.dtype)
        return product(left, right, out).sub_(0.03 * (torch.arange(out.shape[1]) % 2))

    features = torch.randn(499, WIDTH, generator=torch.Generator().manual_seed(3))
    expected = semantic_graph(features, 10)
    allow_few_bits(monkeypatch, few_bits)
    monkeypatch.setattr(nearest, "_product", coarse)
    assert same(semantic_graph(features, 10, chunk_size=100), expected)
    types = [torch.bfloat16, torch.float32]
    assert list(dict.fromkeys(used)) == types[0 if few_bits else 1 :]


def allow_few_bits(monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    monkeypatch.setattr(nearest, "has_fast_bfloat16", lambda device: allowed)
    monkeypatch.setattr(nearest, "FEW_BITS_FROM", 0)
    monkeypatch.setattr(nearest, "FEW_BITS_SHARE", 9.0)
    monkeypatch.setattr(nearest, "CROWDED", dict.fromkeys(nearest.CROWDED, 9.0))


def alike() -> torch.Tensor:
    """Rows whose cosines all lie within 0.001, far closer than bfloat16 can tell."""
    x = 1 + 0.02 * torch.randn(61, WIDTH, generator=torch.Generator().manual_seed(1))
    x[3] = 0
    return x


def opposites() -> torch.Tensor:
    """Small integers: many ties, zero rows, duplicates and cosines of -1."""
    return torch.randint(-1, 2, (43, 3), generator=torch.Generator().manual_seed(1)).float()


def brute_force(features: torch.Tensor, k: int) -> tuple[list[list[int]], torch.Tensor]:
    """Return each row's neighbours in order of ids, and all weights, from every cosine in float64."""
    unit = torch.nan_to_num(features.double() / features.double().norm(dim=1, keepdim=True))
    step = ((unit @ unit.T).clamp(-1, 1) * 2**30).round()
    step.fill_diagonal_(2**31)  # the item itself comes first
    items = features.any(dim=1).nonzero()[:, 0].tolist()
    step[:, ~features.any(dim=1)] = -torch.inf
    neighbours = [[] for _ in features]
    for i in items:
        order = sorted(items, key=lambda j, i=i: (-step[i, j].item(), j))
        neighbours[i] = sorted(order[:k])
    return neighbours, ((1 + step / 2**30) / 2).clamp(max=1).float()


@pytest.mark.parametrize("crowd", [0, 256])
@pytest.mark.parametrize("few_bits", [True, False])
@pytest.mark.parametrize(
    ("make", "chunk_size"),
    [
        (awkward_features, 29),
        (awkward_features, 1024),
        (alike, 13),
        (alike, 64),
        (opposites, 1),
        (opposites, 41),
    ],
)
def test_every_way_agrees_with_brute_force(monkeypatch, make, chunk_size, few_bits, crowd):
    allow_few_bits(monkeypatch, few_bits)
    monkeypatch.setattr(nearest, "CROWD", crowd)
    monkeypatch.setattr(nearest, "PANEL_BYTES", 500 * chunk_size)  # a few blocks
    features = make()
    for k in (2, 10):
        graph = semantic_graph(features, k, chunk_size=chunk_size)
        neighbours, weight = brute_force(features, k)
        row, column = graph.indices()
        assert [column[row == i].tolist() for i in range(len(features))] == neighbours
        assert torch.equal(graph.values(), weight[row, column])


@pytest.mark.parametrize("make", [awkward_features, alike, lambda: alike()[:, :1], opposites])
def test_rows_in_few_directions_agree_with_brute_force(make):
    features = make()
    neighbours, weight = brute_force(features, 10)
    row, column = semantic_graph(features, 10).indices()
    assert [column[row == i].tolist() for i in range(len(features))] == neighbours
    assert torch.equal(semantic_graph(features, 10).values(), weight[row, column])


@pytest.mark.parametrize("few_bits", [True, False])
def test_pairs_of_rows_in_one_direction_are_not_compared_one_by_one(monkeypatch, few_bits):
    """All numbers of one column have the cosine 1 or -1: each pair is a candidate of each row."""
    crowded = nearest.CROWDED
    allow_few_bits(monkeypatch, few_bits)  # as for so many rows that no block has a large share of them
    monkeypatch.setattr(nearest, "CROWDED", crowded)
    monkeypatch.delattr(cosine.UnitRows, "cosines")
    features = 1 + torch.rand(1201, 1, generator=torch.Generator().manual_seed(1))
    graph = semantic_graph(features, 4)
    assert graph.indices()[1, -4:].tolist() == [0, 1, 2, 1200]
    assert graph.values().unique().tolist() == [1.0]


def test_a_k_beyond_the_number_of_items_needs_no_memory():
    features = awkward_features()
    assert same(semantic_graph(features, 2**62), semantic_graph(features, N_ITEMS))


def test_the_bounds_hold_for_each_pair(monkeypatch):
    """What bfloat16 says of a pair is right, and not by chance: bounds a third as wide are not."""
    rows = cosine.UnitRows(torch.randn(307, 97, generator=torch.Generator().manual_seed(1)))
    search = nearest._Search(rows, 3, 100, torch.bfloat16)
    narrow = wide = 0
    for block in range(4):
        search._start(block)
    for j in (1, 2, 3):
        left, right = search._rounded(0, 0), search._rounded(j, 1)
        left[:, search.shift_column], right[:, search.shift_column] = -0.5, 1
        score = nearest._product(left, right, search.score[: len(left), : len(right)])
        low, high = search._bounds(score, 0.5, search._error(0, j))
        i, k = torch.arange(100), torch.arange(search.starts[j], search.starts[j + 1])
        exact = rows.cosines(*torch.cartesian_prod(i, k).T).view_as(low) * cosine.STEP
        wide += int(((exact < low) | (exact > high)).sum())
        third = (high - low) / 6
        middle = (high + low) / 2
        narrow += int(((exact - middle).abs() > third).sum())
    assert wide == 0
    assert narrow > 0


def test_compiled_products_are_the_same(monkeypatch):
    expected = semantic_graph(awkward_features(), 10)
    monkeypatch.setattr(nearest, "COMPILE_FROM", 0)
    assert same(semantic_graph(awkward_features(), 10), expected)
    assert same(semantic_graph(awkward_features().double(), 10), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wide_table_of_few_bits_is_not_copied(monkeypatch, dtype):
    features = awkward_features().to(dtype)
    expected = semantic_graph(features, 6)
    monkeypatch.setattr(cosine, "WIDE", 1)
    rows = cosine.UnitRows(features, keep_few_bits=True)
    assert rows.features is features
    assert torch.equal(rows.index, cosine.UnitRows(features).index)
    pool, first_equal = rows.duplicates(6)
    assert first_equal[rows.index == 37].tolist() == (rows.index == 20).nonzero()[:, 0].tolist()
    assert len(pool) < len(rows)
    assert same(semantic_graph(features, 6), expected)
    assert same(semantic_graph(features, 6, chunk_size=29), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_wide_rows_are_the_same(monkeypatch, dtype):
    """Rows at once, more pairs of a row than fit at once, and pairs in any order."""
    rows = cosine.UnitRows(awkward_features().to(dtype))
    generator = torch.Generator().manual_seed(2)
    i, j = torch.randint(0, len(rows), (2, 997), generator=generator)
    i[: 2 * cosine.PAIRS_OF_ROW + 3] = 7
    expected = rows.cosines(i, j)
    graph = semantic_graph(rows.features, 10)
    monkeypatch.setattr(cosine, "WIDE", 1)
    assert torch.equal(rows.cosines(i, j), expected)
    assert rows.cosines(i[:0], j[:0]).tolist() == []
    assert same(semantic_graph(rows.features, 10), graph)


@pytest.mark.parametrize("few_bits", [True, False])
def test_a_pair_of_two_blocks_is_compared_exactly_once(monkeypatch, few_bits):
    allow_few_bits(monkeypatch, few_bits)
    cosines, seen = cosine.UnitRows.cosines, []

    def noted(rows: cosine.UnitRows, i: torch.Tensor, j: torch.Tensor, **options: bool) -> torch.Tensor:
        blocks = torch.stack((i // 100, j // 100))
        between = blocks[0] != blocks[1]
        seen.append(torch.stack((torch.minimum(i, j), torch.maximum(i, j)))[:, between])
        return cosines(rows, i, j, **options)

    features = torch.randn(499, WIDTH, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(cosine.UnitRows, "cosines", noted)
    semantic_graph(features, 10, chunk_size=100)
    pairs = torch.cat(seen, dim=1)
    assert pairs.shape[1] > 499
    assert len(pairs.unique(dim=1).T) == pairs.shape[1]


def test_equal_hashes_are_not_taken_for_equal_rows(monkeypatch):
    expected = semantic_graph(awkward_features(), 10)
    monkeypatch.setattr(cosine.UnitRows, "_keys", lambda rows: torch.zeros(len(rows), dtype=torch.int64))
    assert same(semantic_graph(awkward_features(), 10), expected)


def test_pairs_are_compared_in_bounded_blocks(monkeypatch):
    expected = semantic_graph(awkward_features(), 10)
    monkeypatch.setattr(cosine, "PAIR_BYTES", 1)
    monkeypatch.setattr(cosine, "BLOCK_BYTES", 1)
    assert same(semantic_graph(awkward_features(), 10, chunk_size=64), expected)


def test_first_k_per_row_is_stable():
    row = torch.tensor([1, 0, 1, 0, 1])
    assert first_k_per_row(row, 2).tolist() == [1, 3, 0, 2]
    assert first_k_per_row(row, 1, torch.tensor([2, 2, 1, 2, 1]), torch.tensor([0, 5, 9, 4, 8])).tolist() == [
        3,
        4,
    ]
    assert first_k_per_row(row, 0).tolist() == []
    assert first_k_per_row(row[:0], 3).tolist() == []


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.ones(3, 2), {"k": 0}, "k must be at least 1, got 0"),
        (torch.ones(3, 2), {"k": 1, "chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        (torch.ones(3), {"k": 1}, r"float matrix, got torch\.float32 of shape \(3,\)"),
        (torch.ones(3, 0), {"k": 1}, r"non-empty float matrix, got torch\.float32 of shape \(3, 0\)"),
        (torch.ones(3, 2).long(), {"k": 1}, r"float matrix, got torch\.int64"),
        (torch.tensor([[1.0], [float("nan")]]), {"k": 1}, "finite, row 1 is not"),
        (torch.tensor([[float("inf")], [1.0]]), {"k": 1}, "finite, row 0 is not"),
        (torch.tensor([[1.0], [float("nan")]]).double(), {"k": 1}, "finite, row 1 is not"),
        (torch.ones(3, 2), {"k": 1, "method": "luck"}, "method must be 'exact' or 'ann', got 'luck'"),
    ],
)
def test_refuses_bad_input(features, options, message):
    with pytest.raises(ValueError, match=message):
        semantic_graph(features, **options)


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="weight must be 'cosine' or 'one', got 'half'"):
        knn_graph(awkward_features(), 3, "half")


@pytest.mark.parametrize("weight", ["cosine", "one"])
def test_items_without_features_give_no_nan(weight):
    graph = knn_graph(awkward_features(), 10, weight).to_dense()
    assert graph.isfinite().all()
    assert not graph[[0, 5, 100]].any()
    assert not graph[:, [0, 5, 100]].any()


@pytest.mark.parametrize("k", [1, 2, 5, 300])
def test_rows_outside_a_table_have_the_edges_of_rows_inside(k: int) -> None:
    """Each query alone is appended to the table; the last row of the graph of this table has its edges."""
    table, queries = awkward_features(), awkward_features()[[100, 21, 3, 155, 201, 5, 75]] + 0.0
    queries[2] *= 7
    queries[4] = torch.linspace(-1, 1, WIDTH)
    index, weight = semantic_rows(queries, table, k)
    assert index.dtype == torch.int64
    assert weight.dtype == torch.float32
    for r, query in enumerate(queries):
        whole = semantic_graph(torch.cat((table, query[None])), k)[N_ITEMS].coalesce()
        mine = index[0] == r
        column = index[1, mine].where(index[1, mine] != N_ITEMS + r, N_ITEMS)
        order = column.argsort()
        assert column[order].tolist() == whole.indices()[0].tolist()
        assert weight[mine][order].tolist() == whole.values().tolist()


def test_rows_outside_a_table_on_another_default_device() -> None:
    """On ``meta``, which is the default device here, no tensor has values."""
    x, query = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    with torch.device("meta"):
        index, weight = semantic_rows(query, x, 3)
        graph = semantic_graph(x, 2)
        duplicates = semantic_graph(torch.ones((5, 2), device="cpu"), 2)
        order = first_k_per_row(index[0], 2)
    assert index.tolist() == [[1, 1, 1], [4, 2, 1]]
    assert weight.tolist() == [1.0, pytest.approx(0.9), pytest.approx(0.8)]
    assert graph.to_dense().tolist() == [[0, 0, 0], [0, 1, 0.5], [0, 0.5, 1]]
    assert duplicates.indices()[1].tolist() == [0, 1, 0, 1, 0, 2, 0, 3, 0, 4]
    assert order.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.ones(3, 2), {"k": 0}, "k must be at least 1, got 0"),
        (torch.ones(3, 2), {"k": 1, "chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        (
            torch.ones(3),
            {"k": 1},
            "features must be a non-empty float matrix, got torch.float32 of shape (3,)",
        ),
        (
            torch.ones(3, 2).long(),
            {"k": 1},
            "features must be a non-empty float matrix, got torch.int64 of shape (3, 2)",
        ),
        (torch.ones(3, 2), {"k": 1, "method": "luck"}, "method must be 'exact' or 'ann', got 'luck'"),
    ],
)
def test_refusals_word_for_word(features: torch.Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        semantic_graph(features, **options)
    assert str(error.value) == message


def test_k_of_one_compares_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops alone have no neighbours to find, and neither has a single item."""
    from recbole_siger.graph import knn

    monkeypatch.setattr(knn, "nearest", None)
    assert semantic_graph(torch.ones(3, 2), 1).to_dense().tolist() == torch.eye(3).tolist()
    assert semantic_graph(torch.tensor([[0.0], [2.0]]), 5).to_dense().tolist() == [[0, 0], [0, 1]]


def test_chunk_size_and_k_go_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_siger.graph import knn

    seen, search = [], knn.nearest

    def recorded(rows: cosine.UnitRows, k: int, chunk_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((len(rows), k, chunk_size))
        return search(rows, k, chunk_size)

    monkeypatch.setattr(knn, "nearest", recorded)
    features = awkward_features()
    features[20:80] = 0
    semantic_graph(features, 5)
    semantic_graph(features, 2, chunk_size=17)
    n_rows = int(features.any(dim=1).sum())
    assert [(k, chunk_size) for _, k, chunk_size in seen] == [(4, 1024), (1, 17)]
    assert all(n <= n_rows for n, _, _ in seen)


def test_one_number_is_a_matrix_of_features() -> None:
    assert semantic_graph(torch.full((1, 1), 3.0), 1).to_dense().tolist() == [[1]]
