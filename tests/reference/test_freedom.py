"""FREEDOM against its equations, written as loops; its pruning against exact probabilities."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, make_toy
from tests.reference import twins
from tests.reference.baselines import (
    Array,
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    numbers,
    projected,
    scrambled,
    training_edges,
)

SHARES = {
    ("image", "text"): [0.1, 0.9],
    ("image", "text", "audio"): [0.1, 0.45, 0.45],
    ("text",): [1.0],
}


def encoded_by_hand(experiment: Experiment, shares: list[float], edges: Array) -> tuple[Array, Array]:
    """Users ``(U, d)`` and items ``(I, d)``, on the user-item graph of ``edges``."""
    model, p, n = experiment.model, experiment.model.params, numbers(experiment)
    raw = {m: x.double().numpy() for m, x in model.raw_features.items()}
    graph = sum(
        share * twins.normalized(twins.knn(raw[m], p.n_semantic_neighbors, "one"))
        for m, share in zip(model.modalities, shares, strict=True)
    )
    table = np.concatenate([n["user_embedding.weight"], n["item_embedding.weight"]])
    behavior = twins.lightgcn(edges, N_USERS, N_ITEMS, table, p.n_ui_layers)
    semantics = twins.item_semantics(graph, n["item_embedding.weight"], p.n_semantic_layers)
    return behavior[:N_USERS], behavior[N_USERS:] + semantics


@every_choice_of_modalities
@pytest.mark.parametrize("n_semantic_layers", [1, 2])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], n_semantic_layers: int) -> None:
    experiment = scrambled(
        tmp_path, "FREEDOM", modalities, feature_weight=0.7, n_semantic_layers=n_semantic_layers
    )
    shares, n = SHARES[modalities], numbers(experiment)
    assert_scores(experiment, *encoded_by_hand(experiment, shares, training_edges(experiment)))

    adjacency = graphs_of(experiment.model)["pruned_adj"]
    kept = np.stack(np.nonzero(adjacency[:N_USERS, N_USERS:]))
    user, item = encoded_by_hand(experiment, shares, kept)
    batch, users, pos, neg = batch_of(experiment)
    u = user[users]
    expected = {"bpr": twins.bpr((u * item[pos]).sum(1), (u * item[neg]).sum(1))}
    for m in modalities:
        content = projected(n, m)
        expected[f"bpr_{m}"] = 0.7 * twins.bpr((u * content[pos]).sum(1), (u * content[neg]).sum(1))
    assert_loss(experiment.model.loss_terms(batch), expected)


def build(tmp_path: Path, **options: Any) -> Any:
    return make_experiment(tmp_path, "FREEDOM", **options).model


@pytest.mark.parametrize(("dropout", "n_kept"), [(0.8, 27), (0.35, 87)])  # of 135: .2 is 27, .65 is 87.75
def test_each_epoch_keeps_its_share_of_the_interactions(tmp_path: Path, dropout: float, n_kept: int) -> None:
    model = build(tmp_path, edge_dropout=dropout)
    whole, seen = {tuple(edge) for edge in model.edges.T.tolist()}, []
    for epoch in range(2):
        model.on_epoch_start(epoch)
        graph = graphs_of(model)["pruned_adj"]
        seen.append({(int(u), int(i)) for u, i in np.argwhere(graph[:N_USERS, N_USERS:])})
        np.testing.assert_array_equal(graph, graph.T)
    assert len(whole) == 135
    assert [len(edges) for edges in seen] == [n_kept] * 2
    assert all(edges <= whole for edges in seen)
    assert seen[0] != seen[1]


def test_nothing_is_pruned_at_zero(tmp_path: Path) -> None:
    model = build(tmp_path, edge_dropout=0.0)
    model.on_epoch_start(0)
    graphs = graphs_of(model)
    assert np.array_equal(graphs["pruned_adj"], graphs["norm_adj"])


def test_edges_are_drawn_by_weight_without_replacement(tmp_path: Path) -> None:
    """How often each of five edges is among two drawn, against all ordered pairs of draws."""
    model = build(tmp_path, edge_dropout=0.6)
    model.edges, weight = model.edges[:, :5], [1.0, 2.0, 3.0, 4.0, 10.0]
    model.edge_weights = torch.tensor(weight)
    expected, n_epochs = np.zeros(5), 2000
    for first, second in permutations(range(5), 2):
        chance = weight[first] / sum(weight) * weight[second] / (sum(weight) - weight[first])
        expected[[first, second]] += chance
    found, drawn = np.zeros(5), []
    model.build_norm_adj = drawn.append
    for epoch in range(n_epochs):
        model.on_epoch_start(epoch)
    for edges in drawn:
        found += [any(torch.equal(edge, kept) for kept in edges.T) for edge in model.edges.T]
    np.testing.assert_allclose(found / n_epochs, expected, atol=4 * 0.5 / n_epochs**0.5)
    assert expected.sum() == pytest.approx(2)


def test_edge_weights_are_those_of_the_degrees(tmp_path: Path) -> None:
    model = build(tmp_path)
    bipartite = twins.interactions(model.edges.numpy(), N_USERS, N_ITEMS)
    for (user, item), weight in zip(model.edges.T.tolist(), model.edge_weights.tolist(), strict=True):
        assert weight == pytest.approx(1 / (bipartite[user].sum() * bipartite[:, item].sum()) ** 0.5)


@pytest.mark.parametrize(
    ("modalities", "options", "expected"),
    [
        (["image", "text"], {}, [0.1, 0.9]),
        (["text", "image"], {"image_weight": 0.3}, [0.7, 0.3]),
        (["audio", "text"], {}, [0.5, 0.5]),
        (["image"], {}, [1.0]),
        (["audio", "image"], {"semantic_weights": [2, 0.5]}, [2.0, 0.5]),
    ],
)
def test_shares_of_the_item_graphs(
    tmp_path: Path, modalities: list[str], options: dict[str, Any], expected: list[float]
) -> None:
    model = build(tmp_path, toy=make_toy(("image", "text", "audio")), modalities=modalities, **options)
    assert model.graph_weights() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5], r"semantic_weights=\[0\.5\]: give one number each for image, text"),
        ([0.5, -1], r"semantic_weights=\[0\.5, -1\]: expected a number in \[0, inf\)"),
    ],
)
def test_wrong_shares_are_refused(tmp_path: Path, weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path, semantic_weights=weights)
