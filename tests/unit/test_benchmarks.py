"""The naive model is a fair other side only if it computes the same thing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.naive.siger import NaiveSIGER
from tests.conftest import make_experiment, make_toy


@pytest.mark.parametrize("modalities", [("image", "text"), ("image", "text", "audio")])
def test_naive_siger_has_the_losses_and_gradients_of_siger(tmp_path, modalities):
    experiment = make_experiment(tmp_path, "SIGER", make_toy(modalities))
    model, batch = experiment.model, next(iter(experiment.train_data))
    naive = NaiveSIGER(model, train_features=True)
    naive.generator.set_state(model.generator.get_state())
    losses, expected = model.calculate_loss(batch), naive.calculate_loss(batch)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-9)
    sum(losses).backward()
    sum(expected).backward()
    mine, theirs = dict(model.named_parameters()), dict(naive.named_parameters())
    assert set(mine) == set(theirs) - {f"features.{m}" for m in modalities}
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-8)
