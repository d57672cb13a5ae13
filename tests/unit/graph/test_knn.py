from __future__ import annotations

import pytest
import torch

from recbole_siger.graph import knn
from recbole_siger.graph.knn import first_k_per_row, semantic_graph

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
@pytest.mark.parametrize("chunk_size", [1, 7, 64, N_ITEMS])
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


def test_survives_a_matrix_product_of_few_bits(monkeypatch):
    """Where float32 products err by 1e-3 (TF32, bfloat16), float64 ones choose the candidates."""
    product = torch.Tensor.__matmul__

    def coarse(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        exact = product(left, right)
        error = 1e-3 * (torch.arange(right.shape[1]) % 2)
        return exact - error if left.dtype == torch.float32 else exact

    features = torch.randn(499, WIDTH, generator=torch.Generator().manual_seed(3))
    expected = semantic_graph(features, 10)
    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    assert same(semantic_graph(features, 10), expected)


def test_pairs_are_compared_in_bounded_blocks(monkeypatch):
    expected = semantic_graph(awkward_features(), 10)
    monkeypatch.setattr(knn, "PAIR_BYTES", 1)
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
    ],
)
def test_refuses_bad_input(features, options, message):
    with pytest.raises(ValueError, match=message):
        semantic_graph(features, **options)


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="weight must be 'cosine' or 'one', got 'half'"):
        knn.knn_graph(awkward_features(), 3, "half")


@pytest.mark.parametrize("weight", ["cosine", "one"])
def test_items_without_features_give_no_nan(weight):
    graph = knn.knn_graph(awkward_features(), 10, weight).to_dense()
    assert graph.isfinite().all()
    assert not graph[[0, 5, 100]].any()
    assert not graph[:, [0, 5, 100]].any()
