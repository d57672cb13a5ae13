"""Eqs. 1-7 and 11 against their twins, and one value by hand for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.eisg import build_eisg
from recbole_siger.graph.knn import knn_graph, semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency, normalize_bipartite, normalize_rows
from recbole_siger.graph.user_item import interaction_matrix, user_item_adjacency
from tests.reference import twins

N_USERS, N_ITEMS = 11, 7
SEEDS = st.integers(0, 2**31 - 1)


def random_edges(seed: int, n_edges: int) -> np.ndarray:
    """Users and items from 1 on, as RecBole numbers them; duplicates happen."""
    rng = np.random.default_rng(seed)
    return np.stack((rng.integers(1, N_USERS, n_edges), rng.integers(1, N_ITEMS, n_edges)))


def dense(graph: torch.Tensor) -> np.ndarray:
    return graph.to_dense().numpy()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n_edges=st.integers(0, 43))
def test_user_item_matrices(seed, n_edges):
    edges = random_edges(seed, n_edges)
    matrix = twins.interactions(edges, N_USERS, N_ITEMS)
    adjacency = twins.bipartite_adjacency(matrix)
    given_edges = torch.from_numpy(edges)
    built = user_item_adjacency(given_edges, N_USERS, N_ITEMS)
    np.testing.assert_array_equal(dense(interaction_matrix(given_edges, N_USERS, N_ITEMS)), matrix)
    np.testing.assert_array_equal(dense(built), adjacency)
    np.testing.assert_allclose(dense(normalize_adjacency(built)), twins.normalized(adjacency), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n_edges=st.integers(0, 43))
def test_bipartite_normalisation_eq_11(seed, n_edges):
    matrix = twins.interactions(random_edges(seed, n_edges), N_USERS, N_ITEMS)
    built = normalize_bipartite(torch.from_numpy(matrix).to_sparse())
    np.testing.assert_allclose(dense(built), twins.normalized_bipartite(matrix), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, density=st.floats(0, 1))
def test_normalisation_by_rows(seed, density):
    rng = np.random.default_rng(seed)
    matrix = rng.random((13, 7)) * (rng.random((13, 7)) < density)
    built = dense(normalize_rows(torch.from_numpy(matrix).to_sparse()))
    np.testing.assert_allclose(built, twins.row_normalized(matrix), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n_items=st.integers(1, 13), k=st.integers(1, 13))
@pytest.mark.parametrize("weight", ["cosine", "one"])
def test_knn_graphs_of_the_baselines(weight, seed, n_items, k):
    """Two features only, so that many a neighbour has a negative cosine."""
    features = np.random.default_rng(seed).normal(size=(n_items, 2))
    features[0] = 0
    built = dense(knn_graph(torch.from_numpy(features), k, weight))
    assert np.isfinite(built).all()
    expected = twins.normalized(twins.knn(features, k, weight))
    np.testing.assert_allclose(built, expected, rtol=1e-5, atol=1e-6)


def test_by_hand_knn_graph():
    """cos 0.6 to the other item: row sums 1.6; an opposite item counts as 0; each of two is a half."""
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert dense(knn_graph(x, 2, "cosine")).tolist() == [
        pytest.approx([1 / 1.6, 0.6 / 1.6]),
        pytest.approx([0.6 / 1.6, 1 / 1.6]),
    ]
    assert dense(knn_graph(x, 2, "one")).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert dense(knn_graph(opposite, 2, "cosine")).tolist() == [[1, 0], [0, 1]]


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, density=st.floats(0, 1))
def test_normalisation_of_directed_weights_eq_5(seed, density):
    rng = np.random.default_rng(seed)
    matrix = rng.random((13, 13)) * (rng.random((13, 13)) < density)
    built = dense(normalize_adjacency(torch.from_numpy(matrix).to_sparse()))
    np.testing.assert_allclose(built, twins.normalized(matrix), rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    n_edges=st.integers(0, 43),
    k=st.integers(1, 8),
    min_count=st.integers(1, 3),
    tie_break=st.sampled_from(["cosine", "popularity", "id"]),
)
def test_co_occurrence_eqs_3_4(seed, n_edges, k, min_count, tie_break):
    edges = random_edges(seed, n_edges)
    options = {"min_count": min_count, "tie_break": tie_break}
    built = co_occurrence_graph(torch.from_numpy(edges), N_USERS, N_ITEMS, k, **options)
    expected = twins.co_occurrence(edges, N_USERS, N_ITEMS, k, **options)
    np.testing.assert_allclose(dense(built), expected, rtol=1e-6)
    assert built.dtype == torch.float32
    np.testing.assert_allclose(dense(normalize_adjacency(built)), twins.normalized(expected), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 19), levels=st.sampled_from([1, 2, 50]))
def test_semantic_graph_eq_6(seed, k, levels):
    """Small integers make ties, zero rows and duplicates common."""
    features = np.random.default_rng(seed).integers(-levels, levels + 1, (17, 3)).astype(float)
    built = semantic_graph(torch.from_numpy(features), k, chunk_size=5)
    np.testing.assert_allclose(dense(built), twins.semantic(features, k), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("co_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_eisg_eq_7(seed, co_weight):
    edges = random_edges(seed, 29)
    features = np.random.default_rng(seed).standard_normal((N_ITEMS, 5))
    features[0] = 0
    co = twins.co_occurrence(edges, N_USERS, N_ITEMS, 3)
    semantic = twins.semantic(features, 4)
    built = build_eisg(
        co_occurrence_graph(torch.from_numpy(edges), N_USERS, N_ITEMS, 3),
        semantic_graph(torch.from_numpy(features), 4),
        co_weight,
    )
    np.testing.assert_allclose(dense(built), twins.eisg(co, semantic, co_weight), rtol=2e-6, atol=1e-9)


def test_by_hand_lightgcn_weights():
    """User 0 has items 0 and 1, user 1 has item 1: 1/sqrt(2*1), 1/sqrt(2*2), 1/sqrt(1*2)."""
    edges = torch.tensor([[0, 0, 1], [0, 1, 1]])
    matrix = dense(normalize_adjacency(user_item_adjacency(edges, 2, 2)))
    np.testing.assert_allclose(matrix[:2, 2:], [[0.70710678, 0.5], [0.0, 0.70710678]], rtol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_by_hand_co_occurrence():
    """Items 1 and 2 share three users, 1 and 3 two, 1 and 4 two; item 4 has one user more than item 3."""
    baskets = {1: [1, 2, 3], 2: [1, 2, 3, 4], 3: [1, 2, 4], 4: [4]}
    edges = torch.tensor([[u, i] for u, items in baskets.items() for i in items]).T
    assert co_occurrence_graph(edges, 5, 5, k=2)[1].to_dense().tolist() == [
        0,
        0,
        0.75,
        pytest.approx(2 / 3),
        0,
    ]
    popular = co_occurrence_graph(edges, 5, 5, k=2, tie_break="popularity")
    assert popular[1].to_dense().tolist() == [0, 0, 0.75, 0, pytest.approx(2 / 3)]


def test_by_hand_semantic_graph():
    """45 degrees: (1 + 0.70711) / 2; opposite: 0, an edge of weight zero."""
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    expected = [[1, 0.8535534, 0], [0.8535534, 1, 0], [0.1464466, 0, 1]]
    np.testing.assert_allclose(dense(semantic_graph(x, 2)), expected, rtol=1e-6)


def test_by_hand_eisg():
    """Co: 0 -> 1 with 0.5, 1 -> 0 with 0.5, degrees 0.5; semantic: 1 and 0.5 a row, degrees 1.5."""
    co = torch.tensor([[0.0, 0.5], [0.5, 0.0]]).to_sparse()
    semantic = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).to_sparse()
    expected = [[0.4, 0.6], [0.6, 0.4]]  # 0.6 * 2/3 and 0.4 * 1 + 0.6 * 1/3
    np.testing.assert_allclose(dense(build_eisg(co, semantic, 0.4)), expected, rtol=1e-6)
