"""The backbone of RLMRec and KAR: thinned graphs, the sum of layers, and RecBole's LightGCN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.model.backbone import Triples
from recbole_siger.testing.experiments import first_batch, score_table
from tests.conftest import N_ITEMS, N_USERS, make_experiment
from tests.reference import backbone
from tests.reference.baselines import assert_loss, assert_scores


def backbone_of(model: Any) -> tuple[Any, Any]:
    nodes = torch.cat((model.user_embedding.weight, model.item_embedding.weight))
    return model.backbone, nodes.detach().double().numpy()


def test_a_thinned_graph_keeps_entries_as_they_are(tmp_path: Path) -> None:
    """Each direction by itself, not rescaled, not normalised again, anew at each call."""
    experiment = backbone.scrambled(tmp_path, "RLMRec", keep_rate=0.8)
    whole, model = backbone.whole_graph(experiment), experiment.model
    draws = [backbone.dense(model.backbone.thin(model.generator)) for _ in range(60)]
    there = whole > 0
    for drawn in draws:
        kept = drawn > 0
        assert not (kept & ~there).any()
        np.testing.assert_allclose(drawn[kept], whole[kept], rtol=1e-6)
    share = np.mean([(drawn > 0).sum() / there.sum() for drawn in draws])
    assert share == pytest.approx(0.8, abs=0.01)
    both = np.mean([((drawn > 0) & (drawn > 0).T).sum() / there.sum() for drawn in draws])
    assert both == pytest.approx(0.64, abs=0.015)  # independent directions: .8 * .8
    every = np.mean([(drawn > 0)[there] for drawn in draws], axis=0)
    assert every.min() > 0.55
    assert every.max() < 1


def test_gradients_go_through_the_thinned_entries(tmp_path: Path) -> None:
    """The transpose of a thinned graph has the values of the thinned graph."""
    model = backbone.scrambled(tmp_path, "RLMRec").model
    graph = model.backbone.thin(model.generator)
    table = torch.from_numpy(backbone.dense(graph)).float()
    assert not torch.equal(table, table.T)
    x = torch.randn(N_USERS + N_ITEMS, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(N_USERS + N_ITEMS, 3, generator=torch.Generator().manual_seed(2))
    (graph(x) * weight).sum().backward()
    torch.testing.assert_close(x.grad, table.T @ weight)


@pytest.mark.parametrize("layer_sum", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["lightgcn", "sgl"])
def test_scores_come_from_the_whole_graph(tmp_path: Path, kind: str, layer_sum: str) -> None:
    experiment = backbone.scrambled(tmp_path, "RLMRec", backbone=kind, layer_sum=layer_sum, n_ui_layers=2)
    _, nodes = backbone_of(experiment.model)
    final = backbone.propagated(backbone.whole_graph(experiment), nodes, 2, layer_sum)
    assert_scores(experiment, *final)


def test_losses_of_sgl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BPR on the whole graph; two thinned views; keys are all rows of the second view but the padding."""
    drawn = backbone.drawn_graphs(monkeypatch)
    options: dict[str, Any] = {
        "backbone": "sgl",
        "contrast_weight": 0.7,
        "contrast_temperature": 0.3,
        "reg_weight": 0.01,
    }
    experiment = backbone.scrambled(tmp_path, "RLMRec", **options)
    model = experiment.model
    own, nodes = backbone_of(model)
    batch, users, pos, neg = backbone.a_batch(experiment)
    start, triples = model.start(), Triples(*batch.values())
    final = own.training_view(start, model.generator)
    assert drawn == []
    found = own.loss_terms(start, final, triples, model.parameters(), model.generator, model.share)
    assert len(drawn) == 2
    whole = backbone.propagated(backbone.whole_graph(experiment), nodes, 3, "sum")
    one, other = (backbone.propagated(graph, nodes, 3, "sum") for graph in drawn)
    contrasts = [
        backbone.contrast(one[side], other[side], rows, 0.3)
        for side, rows in ((0, users.tolist()), (1, pos.tolist()), (1, neg.tolist()))
    ]
    expected = {
        "bpr": backbone.ranking(whole, users, pos, neg),
        "contrast": 0.7 * sum(contrasts),
        "regularization": 0.01 * backbone.squares(experiment),
    }
    assert_loss(found, expected)


def test_without_thinning_the_mean_is_recboles_lightgcn(tmp_path: Path) -> None:
    """Scores, loss and gradients: ``layer_sum: mean``, nothing thinned, no other term."""
    theirs = make_experiment(tmp_path, "LightGCN", embedding_size=7, n_layers=3, reg_weight=0.0)
    options: dict[str, Any] = {"layer_sum": "mean", "keep_rate": 1.0, "align_weight": 0.0, "reg_weight": 0.0}
    ours = make_experiment(tmp_path, "RLMRec", n_ui_layers=3, **options)
    assert not torch.equal(score_table(theirs), score_table(ours))
    with torch.no_grad():
        for name in ("user_embedding", "item_embedding"):
            getattr(ours.model, name).weight.copy_(getattr(theirs.model, name).weight)
    batch = first_batch(theirs)
    losses = []
    for experiment in (ours, theirs):
        experiment.model.train()
        loss = experiment.model.calculate_loss(batch)
        losses.append(
            torch.stack([term.reshape(()) for term in (loss if isinstance(loss, tuple) else [loss])]).sum()
        )
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    for name in ("user_embedding", "item_embedding"):
        mine, other = (getattr(one.model, name).weight.grad for one in (ours, theirs))
        assert mine.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(score_table(ours), score_table(theirs))
