"""The gradients of a step are averaged in two messages, then clipped; frozen parameters are not sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recbole_siger.parallel.shares import Share, average_gradients
from recbole_siger.training import trainer as trainer_module
from tests.conftest import first_batch, make_experiment


@pytest.fixture
def _group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group_of_one")
def test_one_message_has_all_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(7, 5), (3,), (11, 2), (13,)]
    first, second, frozen, untrained = (nn.Parameter(torch.randn(shape)) for shape in shapes)
    frozen.requires_grad_(False)
    gradients = [torch.randn(first.shape), torch.randn(second.shape)]
    first.grad, second.grad = (gradient.clone() for gradient in gradients)
    sent: list[Tensor] = []
    reduce = dist.all_reduce

    def counted(tensor: Tensor) -> None:
        sent.append(tensor)
        reduce(tensor)

    monkeypatch.setattr(dist, "all_reduce", counted)

    average_gradients([first, frozen, second, untrained])
    flags, flat = sent
    assert flags.tolist() == [1, 1, 0]
    assert flat.numel() == first.numel() + second.numel()
    assert torch.equal(first.grad, gradients[0])
    assert torch.equal(second.grad, gradients[1])
    assert frozen.grad is untrained.grad is None

    average_gradients([first, frozen, second, untrained], {"max_norm": 0.1})
    assert torch.cat([first.grad.flatten(), second.grad]).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_gradients_are_clipped_after_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process clips the gradient of the whole batch, so RecBole's loop must not clip a share."""
    clips: list[Any] = []
    monkeypatch.setattr(trainer_module, "current_share", lambda: Share(0, 2))
    monkeypatch.setattr(trainer_module, "average_gradients", lambda parameters, clip: clips.append(clip))
    experiment = make_experiment(tmp_path, "BPR", clip_grad_norm={"max_norm": 1e-4})
    experiment.model.calculate_loss(first_batch(experiment)).backward()
    experiment.trainer.optimizer.step()
    assert clips == [{"max_norm": 1e-4}]
    assert experiment.trainer.clip_grad_norm is None
