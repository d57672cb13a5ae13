"""The naive model is a fair other side only if it computes the same thing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import parts
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


def test_the_parts_of_siger_are_ranked_by_the_evaluator_of_the_run(tmp_path):
    experiment = make_experiment(tmp_path, "SIGER", make_toy(("image", "text")))
    experiment.model.eval()
    expected = [
        experiment.trainer.evaluate(loader, load_best_model=False)[experiment.trainer.valid_metric]
        for loader in experiment.loaders()[1:]
    ]
    tables = dict(parts.parts(experiment.model))
    assert list(parts.evaluate(experiment, tables["all of SIGER"])) == expected
    assert list(parts.evaluate(experiment, tables["semantics of image"])) != expected
    assert len(tables) == 8
    for _, mean, deviation in parts.gates(experiment.model):
        assert 0.3 < mean < 0.7  # of an untrained sigmoid
        assert 0 < deviation < 0.5
