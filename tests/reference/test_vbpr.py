"""VBPR against its equations, written as loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import make_experiment, make_toy, score_table
from tests.reference import twins
from tests.reference.baselines import (
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    numbers,
    scrambled,
)


@every_choice_of_modalities
@pytest.mark.parametrize("trained", [False, True])
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...], trained: bool) -> None:
    experiment = scrambled(tmp_path, "VBPR", modalities, reg_weight=0.7, train_features=trained)
    n = numbers(experiment)
    joined = np.concatenate([n[f"features.{m}"] for m in modalities], axis=1)
    content = twins.linear(joined, n["projection.weight"], n["projection.bias"])
    user, item = n["user_embedding.weight"], np.concatenate([n["item_embedding.weight"], content], axis=1)

    batch, users, pos, neg = batch_of(experiment)
    u, i, j = user[users], item[pos], item[neg]
    expected = {
        "bpr": twins.bpr((u * i).sum(1), (u * j).sum(1)),
        "regularization": 0.7 * twins.norms(u, i, j),
    }
    assert_loss(experiment.model.loss_terms(batch), expected)
    assert_scores(experiment, user, item)


def test_by_hand(tmp_path: Path) -> None:
    """Widths of 1: the user (2, 3) and an item (5, 7 x + 1) score 10 + 3 (7 x + 1)."""
    experiment = make_experiment(tmp_path, "VBPR", make_toy(("text",)), embedding_size=1)
    model = experiment.model
    with torch.no_grad():
        model.user_embedding.weight[:] = torch.tensor([2.0, 3.0])
        model.item_embedding.weight[:] = 5.0
        model.projection.weight.zero_()
        model.projection.weight[0, 4] = 7.0
        model.projection.bias[:] = 1.0
    x = model.raw_features["text"][:, 4]
    torch.testing.assert_close(score_table(experiment), (10 + 3 * (7 * x + 1)).expand(model.n_users, -1))
