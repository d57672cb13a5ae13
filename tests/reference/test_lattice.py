"""LATTICE against its equations, written as loops, its learned graph and that graph's gradient too."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment
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

OPTIONS: dict[str, Any] = {"raw_graph_weight": 0.4, "reg_weight": 0.11}


def item_graph_by_hand(experiment: Experiment, n: dict[str, Array]) -> Array:
    model, k = experiment.model, experiment.model.params.n_semantic_neighbors
    weight = [exp(a) / sum(map(exp, n["modality_weights"].tolist())) for a in n["modality_weights"].tolist()]
    learned, raw = np.zeros((N_ITEMS, N_ITEMS)), np.zeros((N_ITEMS, N_ITEMS))
    for m, share in zip(model.modalities, weight, strict=True):
        features = model.raw_features[m].double().numpy()
        content = projected(n, m)
        content[~features.any(axis=1)] = 0  # an item without a feature has no neighbours
        learned += share * twins.knn(content, k, "cosine")
        raw += share * twins.normalized(twins.knn(features, k, "cosine"))
    return 0.6 * twins.normalized(learned) + 0.4 * raw


def encoded_by_hand(experiment: Experiment, n: dict[str, Array], item_graph: Array) -> tuple[Array, Array]:
    p, ids = experiment.model.params, n["item_embedding.weight"]
    adjacency = twins.bipartite_adjacency(twins.interactions(training_edges(experiment), N_USERS, N_ITEMS))
    for node in range(N_USERS + N_ITEMS):
        if node not in (0, N_USERS):
            adjacency[node, node] = 1
    table = np.concatenate([n["user_embedding.weight"], ids])
    behavior = twins.layer_mean(twins.row_normalized(adjacency), table, p.n_ui_layers)
    semantics = twins.item_semantics(item_graph, ids, p.n_semantic_layers)
    return behavior[:N_USERS], behavior[N_USERS:] + twins.unit(semantics)


def loss_by_hand(experiment: Experiment, n: dict[str, Array], item_graph: Array) -> dict[str, float]:
    user, item = encoded_by_hand(experiment, n, item_graph)
    _, users, pos, neg = batch_of_first(experiment)
    u, i, j = user[users], item[pos], item[neg]
    return {
        "bpr": twins.bpr((u * i).sum(1), (u * j).sum(1)),
        "regularization": 0.11 * twins.l2(u, i, j),
    }


def batch_of_first(experiment: Experiment) -> Any:
    """The first batch that was drawn; a loader draws another each time."""
    if not hasattr(experiment, "first"):
        experiment.first = batch_of(experiment)  # type: ignore[attr-defined]
    return experiment.first  # type: ignore[attr-defined]


@every_choice_of_modalities
@pytest.mark.parametrize("n_semantic_layers", [1, 2])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], n_semantic_layers: int) -> None:
    experiment = scrambled(tmp_path, "LATTICE", modalities, n_semantic_layers=n_semantic_layers, **OPTIONS)
    n = numbers(experiment)
    graph = item_graph_by_hand(experiment, n)
    batch = batch_of_first(experiment)[0]
    expected = loss_by_hand(experiment, n, graph)
    for _ in range(2):  # the epoch's first batch makes the graph, the next one finds it
        assert_loss(experiment.model.loss_terms(batch), expected)
    np.testing.assert_allclose(graphs_of(experiment.model)["item_graph"], graph, rtol=1e-4, atol=1e-7)
    assert_scores(experiment, *encoded_by_hand(experiment, n, graph))


@pytest.mark.parametrize(
    "name", ["projections.image.weight", "projections.text.bias", "features.image", "modality_weights"]
)
def test_the_gradient_goes_through_the_learned_graph(tmp_path: Path, name: str) -> None:
    """Against differences of the loops, along a random direction."""
    experiment = scrambled(tmp_path, "LATTICE", ("image", "text"), **OPTIONS)
    n = numbers(experiment)
    parameter = dict(experiment.model.named_parameters())[name]
    direction = np.random.default_rng(5).normal(size=parameter.shape)
    experiment.model.loss_terms(batch_of_first(experiment)[0])["bpr"].backward()

    def loss(step: float) -> float:
        moved = {**n, name: n[name] + step * direction}
        return loss_by_hand(experiment, moved, item_graph_by_hand(experiment, moved))["bpr"]

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert (parameter.grad.double().numpy() * direction).sum() == pytest.approx(slope, rel=1e-3)
    assert abs(slope) > 1e-5


def test_only_an_epochs_first_batch_has_that_gradient(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "LATTICE", ("image", "text"), **OPTIONS)
    model, batch = experiment.model, batch_of_first(experiment)[0]
    weight = model.projections["image"].weight
    learns = []
    for first_of_epoch in (True, False, False, True):
        if first_of_epoch:
            model.on_epoch_start(0)
        model.zero_grad(set_to_none=True)
        model.loss_terms(batch)["bpr"].backward()
        learns.append(weight.grad is not None)
        assert model.item_embedding.weight.grad.any()
    assert learns == [True, False, False, True]


def test_the_graph_of_an_epoch_stays_and_that_of_the_ranking_follows(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "LATTICE", ("image", "text"), **OPTIONS)
    model, batch = experiment.model, batch_of_first(experiment)[0]
    before = model.loss_terms(batch)["bpr"].item()
    ranked = model.forward().item.detach()
    with torch.no_grad():
        model.projections["image"].weight.neg_()[:, 0] += 3
    assert model.loss_terms(batch)["bpr"].item() == before
    assert not torch.equal(model.forward().item, ranked)
    model.on_epoch_start(1)
    assert model.loss_terms(batch)["bpr"].item() != before


def test_the_learned_graph_touches_neither_padding_nor_items_without_features(tmp_path: Path) -> None:
    model = scrambled(tmp_path, "LATTICE", ("image", "text"), **OPTIONS).model
    for m in model.modalities:
        graph = model.build_learned_graph(m).detach().to_dense()
        absent = ~model.raw_features[m].any(dim=1)
        assert absent[0]
        assert absent.sum() > 1
        assert not graph[absent].any()
        assert not graph[:, absent].any()
        assert graph[~absent].any(dim=1).all()
    assert not model.build_item_graph().detach().to_dense()[0].any()


def test_learned_features_that_are_not_finite_are_one_line(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "LATTICE").model
    with torch.no_grad():
        model.projections["text"].weight.fill_(1e38)
    with pytest.raises(UserError, match=r"^LATTICE: learned features of text are not finite; lower l.*rate$"):
        model.eval().final_embeddings()


def test_the_learning_rate_falls_smoothly(tmp_path: Path) -> None:
    model = scrambled(tmp_path, "LATTICE", ("text",)).model
    assert model.learning_rate_factor(25) == pytest.approx(0.96**0.5)
