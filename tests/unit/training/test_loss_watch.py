"""Loss terms: summed as RecBole would, checked by name, fetched seldom."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.testing.dispatch import StepRecorder
from recbole_siger.training.loss_watch import LossWatch
from recbole_siger.training.settings import run_settings
from recbole_siger.training.step_graph import StepGraph
from tests.conftest import make_experiment
from tests.unit.training.test_step_graph import FakeGraphs

BATCHES = [(1.5, 0.1), (2.5, 0.2), (-3.0, 0.7), (0.25, 1e-9), (7.0, 0.3)]


def make_watch(every: int) -> LossWatch:
    watch = LossWatch(3, lambda n: ("bpr", "align")[:n], torch.device("cpu"))
    watch.every = every
    return watch


def terms(values: tuple[float, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, requires_grad=True) * 1 for value in values)


@pytest.mark.parametrize("every", [1, 2, 3, 16])
def test_sums_are_those_of_a_loop(every: int) -> None:
    watch = make_watch(every)
    for values in BATCHES:
        watch.add(terms(values))
    watch.fetch()
    expected = [0.0, 0.0]
    for values in BATCHES:
        expected = [a + term.item() for a, term in zip(expected, terms(values), strict=True)]
    assert watch.sums == expected
    assert watch.last == {"bpr": 7.0, "align": pytest.approx(0.3)}
    assert watch.fetch() == []


@pytest.mark.parametrize(("every", "told_at"), [(1, 2), (2, 3), (4, 3), (16, 4)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_term_that_is_not_finite_is_named(every: int, told_at: int, value: float) -> None:
    watch, batches = make_watch(every), [*BATCHES[:2], (1.0, value), BATCHES[3]]
    for values in batches[:told_at]:
        watch.add(terms(values))
    with pytest.raises(UserError, match=f"^training stopped in epoch 3: loss term `align` is {value}; "):
        watch.add(terms(batches[told_at])) if told_at < 4 else watch.fetch()  # 4: when the epoch ends


def test_gradients_pass_and_values_are_told() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    one, two = make_watch(1).add((weight * 3, weight**2))
    assert (one.item(), two.item()) == (6.0, 4.0)
    loss = sum((one, two))
    assert type(loss) is Tensor
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 3 + 2 * 2


def test_a_gpu_is_waited_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("recbole_siger.training.loss_watch.time.monotonic", lambda: now[0])
    watch = LossWatch(3, lambda n: ("bpr", "align")[:n], torch.device("cuda"))
    waiting = []
    for values in BATCHES:
        now[0] += 0.4
        watch.add(terms(values))
        waiting.append(len(watch._waiting))
    assert waiting == [1, 2, 0, 1, 2]
    watch.fetch()
    assert watch.sums == [8.25, pytest.approx(1.3)]


def test_a_single_loss_stays_single() -> None:
    watch = make_watch(1)
    loss = watch.add(torch.tensor([1.25], requires_grad=True))
    assert loss.item() == 1.25
    assert loss.shape == (1,)
    assert watch.sums == [1.25]


def test_fetching_waits_for_so_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, fetched = make_watch(4), []
    monkeypatch.setattr(watch, "fetch", lambda: fetched.append(len(watch._waiting)) or [0.0, 0.0])
    for values in BATCHES[:4]:
        told = watch.add(terms(values))
    assert fetched == [4]
    assert [term.item() for term in told] == [0.0, 0.0]


@pytest.mark.parametrize("model", ["SIGER", "BPR"])
def test_a_run_records_the_same_however_seldom_it_fetches(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []
    for every in (1, 4):
        monkeypatch.setattr("recbole_siger.training.loss_watch._BATCHES", {"cpu": every})
        experiment = make_experiment(tmp_path, model)
        experiment.train()
        lines = experiment.run.file("metrics.jsonl").read_text().splitlines()
        recorded.append([json.loads(line)["loss"] for line in lines])
    assert recorded[0] == recorded[1]
    assert len(recorded[0]) == 2
    assert all(value != 0 for loss in recorded[0] for value in loss.values())


@pytest.mark.parametrize("is_captured", [False, True])
def test_the_loop_of_an_epoch_reads_no_value(
    is_captured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the end of the epoch, whose sums are fetched at once; with the choices of a GPU."""
    monkeypatch.setattr("recbole_siger.training.loss_watch._BATCHES", {})  # as on a GPU
    monkeypatch.setattr("recbole_siger.training.loss_watch._SECONDS", 1e9)
    fetch, n_fetched = LossWatch.fetch, []
    monkeypatch.setattr(LossWatch, "fetch", lambda self: n_fetched.append(len(self._waiting)) or fetch(self))
    trainer, data = (experiment := make_experiment(tmp_path, "SIGER")).trainer, experiment.train_data
    if is_captured:
        trainer.step_graph = StepGraph(experiment.model, trainer.optimizer, FakeGraphs())
        trainer.step_graph.reason = "for the loop alone"
    batches = list(data)

    class Loaded(list[Any]):
        shuffle = False

    with run_settings(experiment.config), force_choices(CUDA):
        trainer._train_epoch(Loaded(batches), 0)  # the first epoch stores what products need
        with StepRecorder() as recorder:
            trainer._train_epoch(Loaded(batches), 1)
    assert not +recorder.count.waiting
    assert n_fetched == [len(batches)] * 2
    assert trainer._record is not None
    assert trainer._record.loss["bpr"] > 0
