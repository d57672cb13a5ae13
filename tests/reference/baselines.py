"""What the reference tests of the baselines share: one model with large random weights, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, first_batch, make_experiment, make_toy, score_table, start_epoch
from tests.reference import twins

Array = np.ndarray

every_choice_of_modalities = pytest.mark.parametrize(
    "modalities", [("image", "text"), ("image", "text", "audio"), ("text",)]
)


def scrambled(tmp_path: Path, model: str, modalities: tuple[str, ...], **options: Any) -> Experiment:
    """Build a model and draw every parameter anew, biases and trained features too."""
    experiment = make_experiment(tmp_path, model, make_toy(modalities), **options)
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    start_epoch(experiment)
    return experiment


def numbers(experiment: Experiment) -> dict[str, Array]:
    """Every parameter, and the features of each modality, in float64."""
    model = experiment.model
    found = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    return found | {
        f"features.{m}": getattr(model.features, m).detach().double().numpy() for m in model.modalities
    }


def training_edges(experiment: Experiment) -> Array:
    return experiment.train_data._dataset.train_edges.numpy()


def batch_of(experiment: Experiment) -> tuple[Any, Array, Array, Array]:
    """The first batch, and its users, positive items and negative items (none: empty)."""
    batch = first_batch(experiment)
    empty = torch.zeros(0, dtype=torch.int64)
    keys = ("user_id", "item_id", "neg_item_id")
    user, pos, neg = (batch.interaction.get(key, empty).numpy() for key in keys)
    assert len(np.unique(user)) < len(user)  # an id is repeated
    return batch, user, pos, neg


def projected(n: dict[str, Array], modality: str) -> Array:
    """F_m = W_m X_m + b_m, ``(I, d)``."""
    weight, bias = (n[f"projections.{modality}.{kind}"] for kind in ("weight", "bias"))
    return twins.linear(n[f"features.{modality}"], weight, bias)


def assert_loss(found: dict[str, torch.Tensor], expected: dict[str, float]) -> None:
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=2e-5)


def assert_scores(experiment: Experiment, user: Array, item: Array) -> None:
    np.testing.assert_allclose(score_table(experiment), user @ item.T, rtol=2e-4, atol=1e-5)
    assert len(item) == N_ITEMS
