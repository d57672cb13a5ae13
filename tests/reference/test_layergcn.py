"""LayerGCN against its equations, written as loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.model.propagation import SparseMatrix, propagate_refined
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, start_epoch
from tests.reference import twins
from tests.reference.baselines import Array, assert_loss, assert_scores, batch_of, training_edges


def refined(matrix: Array, x: Array, n_layers: int) -> Array:
    """The sum of H_1 to H_L, one row at a time."""
    layer, total = x, np.zeros_like(x)
    for _ in range(n_layers):
        gathered = twins.product(matrix, layer)
        layer = np.array([twins.cosine(p, e) * p for p, e in zip(gathered, x, strict=True)])
        total = total + layer
    return total


def scrambled(tmp_path: Path, **options: float) -> Experiment:
    experiment = make_experiment(tmp_path, "LayerGCN", edge_dropout=0.2, **options)
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    start_epoch(experiment)
    return experiment


def encoded_by_hand(experiment: Experiment, edges: Array) -> tuple[Array, Array]:
    model = experiment.model
    ids = torch.cat((model.user_embedding.weight, model.item_embedding.weight)).detach().double().numpy()
    interactions = twins.interactions(edges, N_USERS, N_ITEMS)
    graph = twins.normalized(twins.bipartite_adjacency(interactions))
    final = refined(graph, ids, model.params.n_ui_layers)
    return final[:N_USERS], final[N_USERS:]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n_layers=st.integers(1, 5), density=st.floats(0, 1))
def test_refined_propagation(seed, n_layers, density):
    rng = np.random.default_rng(seed)
    matrix = rng.random((7, 7)) * (rng.random((7, 7)) < density)
    x = rng.normal(size=(7, 3))
    x[2] = 0
    found = propagate_refined(
        SparseMatrix(torch.from_numpy(matrix).to_sparse()), torch.from_numpy(x), n_layers
    )
    np.testing.assert_allclose(found.numpy(), refined(matrix, x, n_layers), rtol=1e-5, atol=1e-6)


def test_gradients_go_through_the_cosine() -> None:
    matrix = SparseMatrix(torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).to_sparse())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    (propagate_refined(matrix, x, 2) * weight).sum().backward()
    dense = np.zeros((5, 5))
    dense[:] = torch.sparse_csr_tensor(matrix.crow, matrix.col, matrix.val, (5, 5)).to_dense().double()
    for place in [(0, 0), (3, 2), (4, 1)]:
        step, values = 1e-5, []
        for sign in (1, -1):
            moved = x.detach().double().numpy().copy()
            moved[place] += sign * step
            values.append((refined(dense, moved, 2) * weight.double().numpy()).sum())
        assert x.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("n_ui_layers", [1, 3])
def test_scores_and_loss(tmp_path: Path, n_ui_layers: int) -> None:
    experiment = scrambled(tmp_path, n_ui_layers=n_ui_layers, reg_weight=0.7)
    assert_scores(experiment, *encoded_by_hand(experiment, training_edges(experiment)))
    kept = np.stack(np.nonzero(graphs_of(experiment.model)["pruned_adj"][:N_USERS, N_USERS:]))
    user, item = encoded_by_hand(experiment, kept)
    model = experiment.model
    batch, users, pos, neg = batch_of(experiment)
    scores = [(user[users] * item[i]).sum(1) for i in (pos, neg)]
    tables = [
        table.weight.detach().double().numpy()[ids]
        for table, ids in (
            (model.user_embedding, users),
            (model.item_embedding, pos),
            (model.item_embedding, neg),
        )
    ]
    expected = {
        "bpr": len(users) * twins.bpr(*scores),
        "regularization": 0.7 * sum((table**2).sum() for table in tables) / 2,
    }
    assert_loss(model.loss_terms(batch), expected)


def test_every_second_epoch_draws_uniformly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_experiment(tmp_path, "LayerGCN").model
    seen = []
    monkeypatch.setattr(model, "draw_norm_adj", lambda edges, weights, dropout: seen.append(weights))
    for epoch in range(4):
        model.on_epoch_start(epoch)
    assert [bool((weights == 1).all()) for weights in seen] == [False, True, False, True]


def test_it_runs_without_features(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "LayerGCN", features=None).model
    assert model.raw_features == {}
    made = type(model).from_tensors(n_users=N_USERS, n_items=N_ITEMS, train_edges=model.train_edges)
    assert made.final_embeddings().item.shape == (N_ITEMS, 64)


def test_a_layer_is_needed() -> None:
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        propagate_refined(lambda x: x, torch.ones(2, 2), 0)
