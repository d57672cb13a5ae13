"""Eqs. 1-2 and 8-12 against their twins, and one value by hand for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.graph.normalize import normalize_adjacency, normalize_bipartite
from recbole_siger.graph.user_item import interaction_matrix, user_item_adjacency
from recbole_siger.model.layers import FeatureGate, perturb
from recbole_siger.model.propagation import SparseMatrix, propagate_last, propagate_mean
from tests.reference import twins

N_USERS, N_ITEMS, WIDTH = 13, 7, 5
SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n_layers=st.integers(0, 4))
def test_lightgcn_eqs_1_2(seed, n_layers):
    rng = np.random.default_rng(seed)
    edges = np.stack((rng.integers(0, N_USERS, 31), rng.integers(0, N_ITEMS, 31)))
    x = rng.standard_normal((N_USERS + N_ITEMS, WIDTH))
    adjacency = normalize_adjacency(user_item_adjacency(torch.from_numpy(edges), N_USERS, N_ITEMS))
    mean = propagate_mean(SparseMatrix(adjacency, symmetric=True), torch.from_numpy(x), n_layers)
    expected = twins.lightgcn(edges, N_USERS, N_ITEMS, x, n_layers)
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_gate_eqs_8_9(seed):
    torch.manual_seed(seed)
    gate = FeatureGate(11, WIDTH).double()
    torch.nn.init.normal_(gate.inner.bias)
    torch.nn.init.normal_(gate.outer.bias)
    features, ids = torch.randn(N_ITEMS, 11).double(), torch.randn(N_ITEMS, WIDTH).double()
    weights = [p.detach().numpy() for p in (*gate.inner.parameters(), *gate.outer.parameters())]
    expected = ids.numpy() * twins.gate(features.numpy(), *weights)
    np.testing.assert_allclose((ids * gate(features)).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_item_propagation_and_user_aggregation_eqs_10_11(n_layers):
    rng = np.random.default_rng(n_layers)
    graph = rng.random((N_ITEMS, N_ITEMS)) * (rng.random((N_ITEMS, N_ITEMS)) < 0.5)
    edges = np.stack((rng.integers(0, N_USERS, 31), rng.integers(0, N_ITEMS, 31)))
    x = rng.standard_normal((N_ITEMS, WIDTH))
    item = propagate_last(SparseMatrix(torch.from_numpy(graph).to_sparse()), torch.from_numpy(x), n_layers)
    expected_item = twins.item_semantics(graph, x, n_layers)
    np.testing.assert_allclose(item.numpy(), expected_item, rtol=1e-5, atol=1e-6)
    matrix = interaction_matrix(torch.from_numpy(edges), N_USERS, N_ITEMS)
    user = SparseMatrix(normalize_bipartite(matrix))(item)
    pool = twins.normalized_bipartite(twins.interactions(edges, N_USERS, N_ITEMS))
    np.testing.assert_allclose(user.numpy(), twins.product(pool, expected_item), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, eps=st.floats(0, 1), modulus=st.booleans())
def test_perturbation_eq_12(seed, eps, modulus):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N_ITEMS, WIDTH, generator=generator, dtype=torch.float64)
    x[0] = 0
    state = generator.get_state()
    result = perturb(x, eps, generator=generator, modulus=modulus)
    generator.set_state(state)
    delta = torch.rand(x.shape, generator=generator, dtype=x.dtype).numpy()
    order = torch.randperm(N_ITEMS, generator=generator).numpy()
    expected = twins.perturbed(x.numpy(), eps, delta, order, modulus)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_by_hand_lightgcn():
    """One user, one item: A swaps them. Layers (2, 4), (4, 2), (2, 4): mean 8/3 and 10/3."""
    adjacency = normalize_adjacency(user_item_adjacency(torch.tensor([[0], [0]]), 1, 1))
    mean = propagate_mean(SparseMatrix(adjacency), torch.tensor([[2.0], [4.0]]), 2)
    assert mean.flatten().tolist() == pytest.approx([8 / 3, 10 / 3])


def test_by_hand_gate():
    """W' = 2, b' = 1, W'' = -1, b'' = 3, x = 1: sigmoid(-(2 + 1) + 3) = 1/2."""
    gate = FeatureGate(1, 1)
    for parameter, value in zip(gate.parameters(), (2.0, 1.0, -1.0, 3.0), strict=True):
        torch.nn.init.constant_(parameter, value)
    assert gate(torch.ones(1, 1)).item() == pytest.approx(0.5)


def test_by_hand_item_and_user_semantics():
    """S doubles the first item; the user has both items, each with one user: (4 + 1) / sqrt(2)."""
    item = propagate_last(SparseMatrix(torch.diag(torch.tensor([2.0, 1.0])).to_sparse()), torch.ones(2, 1), 2)
    assert item.flatten().tolist() == [4, 1]
    user = SparseMatrix(normalize_bipartite(torch.ones(1, 2).to_sparse()))(item)
    assert user.item() == pytest.approx(5 / 2**0.5)


def test_by_hand_perturbation():
    """One column, so noise is 1 whatever is drawn, and directions are signs: -4 - 0.5, -1 - 0.5 / 4."""
    assert perturb(torch.tensor([[-4.0]]), 0.5).item() == pytest.approx(-4.5)
    short = perturb(torch.tensor([[-4.0], [-1.0]]), 0.5)
    assert short.flatten().tolist() == pytest.approx([-4.5, -1.125])
