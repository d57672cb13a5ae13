"""KAR against its equations, written as loops."""

from __future__ import annotations

from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.kar import KAR, KARParams
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_USERS, make_experiment, make_toy
from tests.reference import backbone, scale, twins
from tests.reference.baselines import Array, assert_loss, assert_scores, training_edges

SMALL: dict[str, Any] = {"expert_size": 5, "n_ui_layers": 2}


def expert(layers: Any, s: Array) -> Array:
    """Linear, ReLU, linear, ReLU, of one profile."""
    for layer in (layers[0], layers[2]):
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        s = np.array([max(sum(weight[r] * s) + bias[r], 0) for r in range(len(bias))])
    return s


def adapted(model: Any, side: str, profiles: Array) -> Array:
    """a_v, one node at a time: the shared experts first, then those of the side."""
    gate = [p.detach().double().numpy() for p in (model.gates[side].weight, model.gates[side].bias)]
    experts = [*model.experts["shared"], *model.experts[side]]
    rows = []
    for s in profiles:
        logits = [exp(sum(gate[0][e] * s) + gate[1][e]) for e in range(len(experts))]
        rows.append(sum(logits[e] / sum(logits) * expert(experts[e], s) for e in range(len(experts))))
    return np.array(rows)


def start_by_hand(experiment: Experiment) -> Array:
    """E^0 of users, then of items."""
    model = experiment.model
    item = model.raw_features["text"].double().numpy()
    profiles = {"user": scale.mean_of_items(item, training_edges(experiment), N_USERS), "item": item}
    sides = []
    for side, table in (("user", model.user_embedding), ("item", model.item_embedding)):
        ids = table.weight.detach().double().numpy()
        joined = np.concatenate((ids, adapted(model, side, profiles[side])), axis=1)
        if model.params.fusion == "project":
            weight = model.fusions[side].weight.detach().double().numpy()
            joined = np.array([[sum(row * x) for row in weight] for x in joined])
        sides.append(joined)
    return np.concatenate(sides)


@pytest.mark.parametrize(("fusion", "n_shared"), [("concat", 2), ("project", 2), ("concat", 0)])
def test_scores(tmp_path: Path, fusion: str, n_shared: int) -> None:
    experiment = backbone.scrambled(tmp_path, "KAR", fusion=fusion, n_shared_experts=n_shared, **SMALL)
    start = start_by_hand(experiment)
    assert start.shape[1] == (14 if fusion == "concat" else 7)
    assert_scores(experiment, *backbone.propagated(backbone.whole_graph(experiment), start, 2, "sum"))


@pytest.mark.parametrize("kind", ["lightgcn", "sgl"])
def test_the_loss_is_the_backbones(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No alignment, no other term; every view starts from the joined embeddings."""
    drawn = backbone.drawn_graphs(monkeypatch)
    weights = {"contrast_weight": 0.7, "contrast_temperature": 0.3, "reg_weight": 0.01}
    experiment = backbone.scrambled(tmp_path, "KAR", backbone=kind, **SMALL, **weights)
    batch, users, pos, neg = backbone.a_batch(experiment)
    found = experiment.model.loss_terms(batch)
    start = start_by_hand(experiment)
    whole = backbone.propagated(backbone.whole_graph(experiment), start, 2, "sum")
    views = [backbone.propagated(graph, start, 2, "sum") for graph in drawn]
    final = whole if kind == "sgl" else views[0]
    expected = {"bpr": backbone.ranking(final, users, pos, neg)}
    if kind == "sgl":
        one, other = views
        expected["contrast"] = 0.7 * sum(
            backbone.contrast(one[side], other[side], rows.tolist(), 0.3)
            for side, rows in ((0, users), (1, pos), (1, neg))
        )
    assert_loss(found, expected | {"regularization": 0.01 * backbone.squares(experiment)})


def wide(**options: Any) -> KAR:
    features = torch.randn(7, 1009)
    features[0] = 0
    edges = torch.tensor([[1, 1, 2, 3], [1, 2, 2, 4]])
    params = KARParams.defaults(embedding_size=53, **options)
    return KAR.from_tensors(params, n_users=5, n_items=7, train_edges=edges, features={"text": features})


def test_each_expert_starts_xavier_normal_by_its_own_sizes() -> None:
    model = wide(n_own_experts=3, expert_size=127)
    assert [len(model.experts[name]) for name in ("shared", "user", "item")] == [2, 3, 3]
    for experts in model.experts.values():
        for layers in experts:
            for layer in (layers[0], layers[2]):
                n_out, n_in = layer.weight.shape
                assert layer.weight.std().item() == pytest.approx(sqrt(2 / (n_in + n_out)), rel=0.05)
                assert not layer.bias.any()
                share = (layer.weight.abs() < layer.weight.std()).float().mean().item()
                assert share == pytest.approx(0.683, abs=0.02)  # normal; uniform has .577
    assert model.gates["user"].weight.shape == (5, 1009)


def test_shared_experts_learn_from_both_sides(tmp_path: Path) -> None:
    """A loss of users alone moves the shared experts and those of users, and no others."""
    model = backbone.scrambled(tmp_path, "KAR", **SMALL).model
    model.adapt("user", model.user_profile).sum().backward()
    for name, experts in model.experts.items():
        moved = any(p.grad is not None and p.grad.any() for p in experts.parameters())
        assert moved is (name != "item")


def test_the_first_text_and_the_policy_for_missing_ones(tmp_path: Path) -> None:
    toy = make_toy(("audio", "text"))
    experiment = make_experiment(tmp_path, "KAR", toy, missing_modality="mean")
    model = experiment.model
    assert model.modalities == ("text",)
    _, item = backbone.unprofiled(experiment)
    known = model.raw_features["text"][model.raw_features["text"].any(dim=1)]
    torch.testing.assert_close(model.features.text[item], known.mean(dim=0))
    with pytest.raises(UserError, match="n_own_experts=0: expected a number in"):
        make_experiment(tmp_path, "KAR", n_own_experts=0)


def test_each_expert_has_its_own_row_of_the_gate(tmp_path: Path) -> None:
    """Rows of the gate in another order mix the experts differently."""
    model = backbone.scrambled(tmp_path, "KAR", **SMALL).model
    before = model.adapt("item", model.features.text)
    with torch.no_grad():
        model.gates["item"].weight.copy_(model.gates["item"].weight.flip(0))
    assert not torch.allclose(before, model.adapt("item", model.features.text))
    assert twins.length(before[1].detach().double().numpy()) > 0
