"""MGCN against its equations, written as loops."""

from __future__ import annotations

from math import exp, tanh
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import N_ITEMS, N_USERS
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


def fused_by_hand(n: dict[str, Array], behavior: Array, views: dict[str, Array]) -> Array:
    """The common part by attention, the private parts by preference, and their mean; row by row."""
    result = np.zeros(behavior.shape)
    gate = {
        m: twins.sigmoid(twins.linear(behavior, n[f"preferences.{m}.weight"], n[f"preferences.{m}.bias"]))
        for m in views
    }
    for row in range(len(behavior)):
        logit = {}
        for m, view in views.items():
            hidden = twins.linear(view[row : row + 1], n["attention.0.weight"], n["attention.0.bias"])[0]
            logit[m] = sum(
                q * tanh(h) for q, h in zip(n["attention.2.weight"][0].tolist(), hidden.tolist(), strict=True)
            )
        share = {m: exp(value) / sum(map(exp, logit.values())) for m, value in logit.items()}
        common = sum(share[m] * view[row] for m, view in views.items())
        private = [gate[m][row] * (view[row] - common) for m, view in views.items()]
        result[row] = (sum(private) + common) / (len(views) + 1)
    return result


@every_choice_of_modalities
@pytest.mark.parametrize("dedup", [False, True])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], dedup: bool) -> None:
    options = {"cl_weight": 0.7, "cl_temperature": 0.3, "reg_weight": 0.11, "contrast_dedup": dedup}
    experiment = scrambled(tmp_path, "MGCN", modalities, **options)
    model, p, n, edges = (
        experiment.model,
        experiment.model.params,
        numbers(experiment),
        training_edges(experiment),
    )
    ids = n["item_embedding.weight"]
    table = np.concatenate([n["user_embedding.weight"], ids])
    behavior = twins.lightgcn(edges, N_USERS, N_ITEMS, table, p.n_ui_layers)
    bipartite = twins.normalized_bipartite(twins.interactions(edges, N_USERS, N_ITEMS))
    users, items = {}, {}
    for m in modalities:
        raw = model.raw_features[m].double().numpy()
        graph = twins.normalized(twins.knn(raw, p.n_semantic_neighbors, "cosine"))
        gate = twins.sigmoid(
            twins.linear(projected(n, m), n[f"purifiers.{m}.weight"], n[f"purifiers.{m}.bias"])
        )
        items[m] = twins.item_semantics(graph, ids * gate, p.n_semantic_layers)
        users[m] = twins.product(bipartite, items[m])
    b = {"user": behavior[:N_USERS], "item": behavior[N_USERS:]}
    s = {"user": fused_by_hand(n, b["user"], users), "item": fused_by_hand(n, b["item"], items)}
    final = {side: b[side] + s[side] for side in b}

    batch, user, pos, neg = batch_of(experiment)
    u, i, j = final["user"][user], final["item"][pos], final["item"][neg]
    contrast = 0.0
    for side, rows in (("item", pos), ("user", user)):
        chosen = np.unique(rows) if dedup else rows
        contrast += twins.info_nce(s[side][chosen], b[side][chosen], 0.3, np.arange(len(chosen)))
    expected = {
        "bpr": twins.bpr((u * i).sum(1), (u * j).sum(1)),
        "contrast": 0.7 * contrast,
        "regularization": 0.11 * twins.l2(u, i, j),
    }
    assert_loss(model.loss_terms(batch), expected)
    assert_scores(experiment, final["user"], final["item"])


def test_by_hand_fusion(tmp_path: Path) -> None:
    """Attention without a query halves; gates of 1/2: c = 4, private -1 and 1, so (4 - 1 + 1) / 3."""
    model = scrambled(tmp_path, "MGCN", ("image", "text"), embedding_size=1).model
    with torch.no_grad():
        model.attention[2].weight.zero_()
        for linear in model.preferences.values():
            linear.weight.zero_()
            linear.bias.zero_()
    side = model.fuse(torch.ones(1, 1), [torch.tensor([[2.0]]), torch.tensor([[6.0]])])
    assert side.item() == pytest.approx(4 / 3)


def test_the_learning_rate_falls_smoothly(tmp_path: Path) -> None:
    model = scrambled(tmp_path, "MGCN", ("text",), lr_decay=0.25, lr_decay_epochs=4).model
    assert [model.learning_rate_factor(epoch) for epoch in (0, 2, 4, 8)] == pytest.approx(
        [1, 0.5, 0.25, 0.0625]
    )
