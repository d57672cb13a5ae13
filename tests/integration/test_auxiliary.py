"""Auxiliary losses: a step each, recorded, checked, interrupted, resumed, kept with the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_siger.audit.checks import audit
from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.diffmm import DiffMM
from recbole_siger.quick_start import evaluate_run, resume_run
from recbole_siger.runs.folder import RunFolder
from tests.integration.test_training import (
    assert_same_run,
    metrics_of,
    run,
    same_weights,
    script_validation,
)
from tests.toy import N_USERS, random_features, random_splits, write_dataset

Settings = Callable[..., dict[str, Any]]

SMALL: dict[str, Any] = {"hidden_size": 11, "denoise_batch": 7}
N_STEPS = math.ceil(N_USERS / 7)


def patched(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, int, dict[str, Tensor]], Any]) -> None:
    """Let ``change`` see and replace each auxiliary loss, by epoch and number."""
    original = DiffMM.auxiliary_losses

    def losses(self: DiffMM, epoch: int) -> Iterator[dict[str, Tensor]]:
        for number, terms in enumerate(original(self, epoch)):
            yield change(epoch, number, terms) or terms

    monkeypatch.setattr(DiffMM, "auxiliary_losses", losses)


def test_steps_come_before_the_batches_and_are_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loss has one step, in training mode, and its mean over the steps is in metrics.jsonl."""
    seen: list[str] = []
    values: list[float] = []

    def note(epoch: int, number: int, terms: dict[str, Tensor]) -> None:
        seen.append("auxiliary")
        values.append(terms["denoising_text"].item())

    patched(monkeypatch, note)
    hook, loss_terms = DiffMM.on_epoch_start, DiffMM.loss_terms
    monkeypatch.setattr(
        DiffMM, "on_epoch_start", lambda self, epoch: seen.append("epoch") or hook(self, epoch)
    )
    monkeypatch.setattr(
        DiffMM,
        "loss_terms",
        lambda self, batch: seen.append(f"batch {self.training}") or loss_terms(self, batch),
    )
    run(settings(epochs=2, **SMALL), "DiffMM")
    assert seen == ["epoch", *["auxiliary"] * N_STEPS, *["batch True"] * 3] * 2
    lines = metrics_of("run")
    assert list(lines[0]["loss"]) == [
        *("denoising_image", "denoising_text"),
        *("bpr", "regularization", "contrast"),
    ]
    for number, line in enumerate(lines):
        mine = values[number * N_STEPS : (number + 1) * N_STEPS]
        assert line["loss"]["denoising_text"] == pytest.approx(sum(mine) / N_STEPS, rel=1e-6)


def test_a_term_that_is_not_finite_stops_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(
        monkeypatch,
        lambda epoch, number, terms: (
            {**terms, "denoising_text": terms["denoising_text"] * math.nan}
            if (epoch, number) == (1, 2)
            else None
        ),
    )
    with pytest.raises(UserError) as caught:
        run(settings(epochs=3, **SMALL), "DiffMM")
    assert str(caught.value).startswith("training stopped in epoch 1: loss term `denoising_text` is nan; ")
    assert len(metrics_of("run")) == 1


@pytest.mark.parametrize("number", [0, N_STEPS - 1])
def test_a_run_that_is_interrupted_among_them_ends_as_one_in_one_go(
    number: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = settings(epochs=4, checkpoint_interval=0, **SMALL)
    run(values, "DiffMM", "whole")
    with monkeypatch.context() as patch:

        def interrupt(epoch: int, step: int, terms: dict[str, Tensor]) -> None:
            if (epoch, step) == (2, number):
                raise KeyboardInterrupt

        patched(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(values, "DiffMM", "broken")
    assert len(metrics_of("broken")) == 2
    resume_run("broken")
    assert_same_run("whole", "broken")


def test_a_run_keeps_the_edges_of_its_best_epoch(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last epoch generates other edges; test, evaluation and the stored model have those of the best."""
    values = settings(learning_rate=0.05, n_generated=2, **SMALL)
    with monkeypatch.context() as patch:
        script_validation(patch, [0.1, 0.3, 0.2, 0.2])
        kept = run({**values, "epochs": 4}, "DiffMM")
        script_validation(patch, [0.1, 0.3])
        run({**values, "epochs": 2}, "DiffMM", "short")
        script_validation(patch, [0.1, 0.2, 0.3, 0.4])
        run({**values, "epochs": 4}, "DiffMM", "last")
    assert kept["best_epoch"] == 1
    assert same_weights("run", "short")
    edges = [
        RunFolder(name).read_tensors("model.safetensors")[0]["model.diffusion.generated"]
        for name in ("run", "last")
    ]
    assert not torch.equal(*edges)
    assert evaluate_run("run") == kept["test"]


def test_gradients_are_clipped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gradient descent by clipped gradients moves no denoiser by more than the limit a step."""
    states: dict[str, Tensor] = {}
    original = DiffMM.auxiliary_losses

    def losses(self: DiffMM, epoch: int) -> Iterator[dict[str, Tensor]]:
        before = {name: p.detach().clone() for name, p in self.named_parameters()}
        yield from original(self, epoch)
        states.update({name: p.detach() - before[name] for name, p in self.named_parameters()})

    monkeypatch.setattr(DiffMM, "auxiliary_losses", losses)
    options = {"learner": "sgd", "learning_rate": 1.0, "clip_grad_norm": {"max_norm": 1e-4}}
    run(settings(epochs=1, **SMALL, **options), "DiffMM")
    moved = math.sqrt(sum(float(change.square().sum()) for change in states.values()))
    assert 1e-5 < moved <= N_STEPS * 1e-4 * 1.01


def test_generated_edges_are_a_fact_of_the_audit(tmp_path: Path, workdir: Path) -> None:
    write_dataset(tmp_path, "toy", random_splits(), random_features({"image": 5, "text": 11}))
    small = {"gpu_id": "", "topk": "[3]", "valid_metric": "Recall@3", "hidden_size": "11"}
    findings = audit("toy", values={"data_path": str(tmp_path), "model": "DiffMM", **small})
    told = {f.text.partition(":")[0]: (f.verdict, f.text) for f in findings if f.check == "graphs"}
    assert told["DiffMM.norm_adj"][0] == "PASS"
    for modality in ("image", "text"):
        verdict, text = told[f"DiffMM.generated_graphs.{modality}"]
        assert (verdict, "edges by content" in text) == ("INFO", True)
