"""Eqs. 3-5 and 10 of SCALE against their twins, and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.graph import omp
from recbole_siger.graph.knn import similarity_graph
from recbole_siger.graph.omp import subspace_graph
from recbole_siger.model.loss import relation_loss
from tests.reference import scale

SEEDS = st.integers(0, 2**31 - 1)


def tables(seed: int, n: int, m: int, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Small whole numbers, so that ties, twins, multiples and rows of zeros happen."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (n, 5)).astype(np.float32)
    return queries, queries if same else rng.integers(-2, 3, (m, 5)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 13), m=st.integers(1, 11), k=st.integers(1, 13), same=st.booleans())
def test_similarity_graph_eqs_4_5(seed, n, m, k, same):
    queries, atoms = tables(seed, n, m, same)
    built = similarity_graph(torch.from_numpy(queries), torch.from_numpy(atoms), k, same=same)
    np.testing.assert_array_equal(built.to_dense().numpy(), scale.similarity(queries, atoms, k, same))


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    n=st.integers(1, 13),
    m=st.integers(1, 11),
    k=st.integers(1, 13),
    sparsity=st.integers(1, 7),
    same=st.booleans(),
)
def test_subspace_graph_algorithm_1(seed, n, m, k, sparsity, same):
    queries, atoms = tables(seed, n, m, same)
    sparsity = min(sparsity, k)
    given_tables = torch.from_numpy(queries), torch.from_numpy(atoms)
    built = subspace_graph(*given_tables, k, sparsity, same=same).to_dense().numpy()
    np.testing.assert_array_equal(built, scale.subspace(queries, atoms, k, sparsity, same))


def test_by_hand_subspace_graph() -> None:
    """The second atom is not the second nearest: what is left of the query points elsewhere."""
    query = torch.tensor([[0.0, 0.0, 0.0], [3.0, 3.0, 1.0]])
    atoms = torch.tensor(
        [[0, 0, 0], [1, 1, 0], [2.0, 2.0, -0.01], [0, 0, 1], [1, 0.9, 0]], dtype=torch.float32
    )
    similar = similarity_graph(query, atoms, 2, same=False).to_dense()[1]
    chosen = subspace_graph(query, atoms, 4, 2, same=False).to_dense()[1]
    assert similar.nonzero().flatten().tolist() == [1, 2]
    assert chosen.nonzero().flatten().tolist() == [1, 3]


def test_a_twin_is_the_only_edge() -> None:
    x = torch.randn(17, 7, generator=torch.Generator().manual_seed(3))
    x[11] = 2 * x[5]
    graph = subspace_graph(x, x, 13, 3, same=True).to_dense()
    assert graph[5].nonzero().flatten().tolist() == [11]
    assert graph[11].nonzero().flatten().tolist() == [5]
    assert (graph.sum(dim=1)[torch.arange(17) % 6 != 5] == 3).all()


@pytest.mark.parametrize("kind", ["random", "alike", "long"])
@pytest.mark.parametrize("compiled", [False, True])
def test_supports_are_those_of_scikit_learn(
    kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import orthogonal_mp

    rng = np.random.default_rng(7)
    x = rng.standard_normal((211, 600 if kind == "long" else 37)).astype(np.float32)
    if kind == "alike":  # as embeddings of texts are: one direction that all share
        x += 3 * rng.standard_normal(37).astype(np.float32)
    monkeypatch.setattr(omp, "COMPILE_FROM", 0 if compiled else 10**18)
    table = torch.from_numpy(x)
    graph = subspace_graph(table, table, 101, 10, same=True).to_dense().numpy()
    rows = x.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    for row in range(0, 211, 7):
        candidates = np.argsort(-cosines[row])[:101]
        coefficients = orthogonal_mp(rows[candidates].T, rows[row], n_nonzero_coefs=10)
        assert set(np.flatnonzero(graph[row])) == set(candidates[np.flatnonzero(coefficients)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loops_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(tables(3, 211, 0, True)[0]).to(dtype)
    y = torch.randn(53, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    graphs = []
    for least in (0, 10**18):
        monkeypatch.setattr(omp, "COMPILE_FROM", least)
        graphs.append([subspace_graph(x, x, 61, 4, same=True), subspace_graph(y, x, 67, 5, same=False)])
    for one, other in zip(*graphs, strict=True):
        assert torch.equal(one.indices(), other.indices())


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 7), v=st.integers(1, 5), temperature=st.floats(0.05, 2))
def test_relation_loss_eq_10(seed, n, v, temperature):
    rng = np.random.default_rng(seed)
    anchor, positive, negatives = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.normal(size=(n, v, 3))
    anchor[0] = 0
    loss = relation_loss(*map(torch.from_numpy, (anchor, positive, negatives)), temperature)
    assert loss.item() == pytest.approx(scale.relation(anchor, positive, negatives, temperature), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: subspace_graph(x, x, 3, 4, same=True),
            r"sparsity must be in \[1, n_candidates=3\], got 4",
        ),
        (
            lambda x: subspace_graph(x, x[:5], 3, 2, same=True),
            "same=True requires one table, got 7 and 5 rows",
        ),
        (lambda x: subspace_graph(x, x[:, :2], 3, 2, same=False), "queries are 3 wide and atoms 2"),
        (lambda x: similarity_graph(x, x, 0, same=True), "k must be at least 1, got 0"),
        (lambda x: similarity_graph(x.long(), x, 1, same=False), "queries must be a non-empty float matrix"),
        (
            lambda x: similarity_graph(x * torch.inf, x, 1, same=False),
            "features must be finite, row 0 is not",
        ),
        (lambda x: relation_loss(x, x, x, 0.2), r"expected shapes \(P, d\), \(P, d\) and \(P, V, d\)"),
        (lambda x: relation_loss(x, x, x[:, None], 0.0), "temperature must be finite and > 0, got 0.0"),
    ],
)
def test_refuses(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(7, 3))
