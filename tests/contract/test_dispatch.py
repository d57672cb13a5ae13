"""A training step on a GPU, counted on the CPU with the choices of CUDA forced.

Each model launches few kernels, lets the host wait for nothing, sums in one order, and has shapes that do not
depend on the batch. Losses and gradients are those of a CPU. The toy graphs have no long rows: a product of a
long row takes one kernel more.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_siger.model.device import CUDA, Choices, force_choices
from recbole_siger.registry import MODELS
from recbole_siger.testing.dispatch import StepCount, count_step, training_step
from tests.conftest import make_experiment, start_epoch
from tests.contract.test_models import WITHOUT_NOISE

# The most kernels that a step may launch: a little more than the step launches today.
LAUNCHES = {
    "SIGER": 281,
    "VBPR": 72,
    "LATTICE": 66,
    "BM3": 259,
    "FREEDOM": 115,
    "MGCN": 314,
    "SCALE": 361,
    "LayerGCN": 171,
    "MENTOR": 531,
    "MIGGT": 331,
    "RLMRec": 239,
    "DiffMM": 287,
    "KAR": 417,
    "SLMRec": 311,
    "LGMRec": 422,
    "DAMRS": 534,
}
# Options for which a step still waits, and why.
WAITS = {
    ("RLMRec", "alignment=gen"): "the number of users among the masked nodes differs from step to step",
    ("SLMRec", "contrast_dedup=True"): "the distinct items are counted",
}


def counts(folder: Path, model: str, **options: Any) -> list[StepCount]:
    """Count two steps on different batches of one size; a step before them builds what is built once."""
    experiment = make_experiment(folder, model, **options)
    start_epoch(experiment)
    chosen = [p for p in experiment.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(chosen, fused=True)
    batches = [batch for _, batch in zip(range(4), experiment.train_data, strict=False)]
    with force_choices(CUDA):
        for batch in batches[:2]:  # the first batch of LATTICE learns its graph
            training_step(experiment.model, batch, optimizer)
    return [count_step(partial(training_step, experiment.model, batch, optimizer)) for batch in batches[2:]]


@pytest.mark.parametrize("model", MODELS)
def test_a_step_neither_waits_nor_varies_nor_launches_more(tmp_path: Path, model: str) -> None:
    first, second = counts(tmp_path, model)
    for count in (first, second):
        assert not +count.waiting
        assert not +count.varying
        assert count.launches <= LAUNCHES[model], count.table()
    assert first.shapes == second.shapes


@pytest.mark.parametrize(("model", "option"), WAITS)
def test_options_with_which_a_step_waits(tmp_path: Path, model: str, option: str) -> None:
    name, value = option.split("=")
    first, _ = counts(tmp_path, model, **{name: value == "True" or value})
    assert +first.waiting


def losses_and_gradients(model: Any, batch: Any, choices: Choices | None) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with force_choices(choices):
        losses = torch.stack(model.calculate_loss(batch))
        losses.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return losses.detach(), found


MORE: dict[str, dict[str, Any]] = {
    "SIGER, full": {"contrast_negatives": "full"},
    "SIGER, no anchor": {"ablation": "anchor"},
    "SIGER, equal weights": {"ablation": "mp_weight", "detach_modulus": False},
    "MGCN, distinct": {"contrast_dedup": True},
    "RLMRec, SGL": {"backbone": "sgl"},
    "VBPR, trained": {"train_features": True},
}


@pytest.mark.parametrize("case", [*MODELS, *MORE])
def test_losses_and_gradients_are_those_of_a_cpu(tmp_path: Path, case: str) -> None:
    model = case.split(",")[0]
    experiment = make_experiment(tmp_path, model, **WITHOUT_NOISE.get(model, {}), **MORE.get(case, {}))
    start_epoch(experiment)
    first, batch = (batch for _, batch in zip(range(2), experiment.train_data, strict=False))
    losses_and_gradients(experiment.model, first, None)
    state = experiment.model.generator.get_state()
    plain = losses_and_gradients(experiment.model, batch, None)
    experiment.model.generator.set_state(state)
    static = losses_and_gradients(experiment.model, batch, CUDA)
    torch.testing.assert_close(static[0], plain[0], rtol=1e-5, atol=1e-9)
    assert static[1].keys() == plain[1].keys()
    largest = max(grad.abs().max().item() for grad in plain[1].values())
    for name, grad in plain[1].items():
        torch.testing.assert_close(static[1][name], grad, rtol=1e-5, atol=1e-5 * largest, msg=name)
