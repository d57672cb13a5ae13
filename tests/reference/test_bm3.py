"""BM3 against its equations, written as loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import N_ITEMS, N_USERS, first_batch, make_experiment
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


def disturbed(x: Array, rows: Array, p: float, generator: torch.Generator) -> dict[int, Array]:
    """Drop entries of each distinct row once: ``{row: (d,)}``, drawn as the model draws."""
    distinct = np.unique(rows)
    noise = torch.rand(len(distinct), x.shape[1], generator=generator).double().numpy()
    result = {}
    for place, row in enumerate(distinct.tolist()):
        result[row] = np.array(
            [x[row, c] / (1 - p) if noise[place, c] >= p else 0.0 for c in range(x.shape[1])]
        )
    return result


@every_choice_of_modalities
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], dropout: float) -> None:
    options = {"dropout": dropout, "cl_weight": 0.7, "reg_weight": 0.3, "n_ui_layers": 2}
    experiment = scrambled(tmp_path, "BM3", modalities, **options)
    model, n = experiment.model, numbers(experiment)
    table = np.concatenate([n["user_embedding.weight"], n["item_embedding.weight"]])
    encoded = twins.lightgcn(training_edges(experiment), N_USERS, N_ITEMS, table, 2)
    user, item = encoded[:N_USERS], encoded[N_USERS:] + n["item_embedding.weight"]

    def predicted(x: Array) -> Array:
        return twins.linear(x, n["predictor.weight"], n["predictor.bias"])

    batch, users, items, _ = batch_of(experiment)
    generator = torch.Generator().manual_seed(experiment.config.run.seed)
    user_target, item_target = (
        disturbed(x, rows, dropout, generator) for x, rows in ((user, users), (item, items))
    )
    u_target, i_target = (
        np.stack([target[row] for row in rows.tolist()])
        for target, rows in ((user_target, users), (item_target, items))
    )
    modality = 0.0
    for m in modalities:
        content = projected(n, m)
        target = disturbed(content, items, dropout, generator)
        own = np.stack([target[row] for row in items.tolist()])
        prediction = predicted(content[items])
        modality += twins.distance(prediction, i_target) + twins.distance(prediction, own)
    expected = {
        "reconstruction": twins.distance(predicted(user[users]), i_target)
        + twins.distance(predicted(item[items]), u_target),
        "modality": 0.7 * modality,
        "regularization": 0.3 * twins.norms(user[1:], item[1:]),
    }
    assert_loss(model.loss_terms(batch), expected)
    assert_scores(experiment, predicted(user), predicted(item))


def test_needs_no_negatives(tmp_path: Path) -> None:
    """None is in a batch, and no sampler draws any."""
    experiment = make_experiment(tmp_path, "BM3")
    assert set(first_batch(experiment).columns) == {"user_id", "item_id"}
    assert experiment.train_data._sampler is None
    assert len(experiment.train_data) == -(-experiment.model.train_edges.shape[1] // 17)


def test_targets_get_no_gradient(tmp_path: Path) -> None:
    """Without the predictor's part there is nothing to learn from: P = 0 gives tables a zero gradient."""
    experiment = scrambled(tmp_path, "BM3", ("text",), reg_weight=0.0)
    model = experiment.model
    with torch.no_grad():
        model.predictor.weight.zero_()
    torch.stack(list(model.loss_terms(first_batch(experiment)).values())).sum().backward()
    assert model.predictor.weight.grad.any()
    for table in (model.user_embedding, model.item_embedding, model.projections["text"]):
        assert not table.weight.grad.any()


def test_by_hand_disturbed(tmp_path: Path) -> None:
    """Half of the entries are dropped and the others doubled."""
    model = scrambled(tmp_path, "BM3", ("text",), dropout=0.5).model
    found = model.disturb(torch.ones(997, 11, requires_grad=True))
    assert set(found.flatten().tolist()) == {0.0, 2.0}
    assert found.mean().item() == pytest.approx(1, abs=0.04)
    assert not found.requires_grad
