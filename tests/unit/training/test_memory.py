"""The memory of a run: what is counted is exact, what is estimated is near to what torch allocates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from recbole_siger import cli
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training import memory as estimate_module
from recbole_siger.training.experiment import Experiment, build_experiment
from recbole_siger.training.memory import MIB, check_fits, estimate
from tests.conftest import make_experiment


def peak_bytes(run: Callable[[], Any]) -> int:
    """Measure what torch allocates at most, beyond what is allocated before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = found.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([change for _, change in sorted(changes, key=lambda pair: pair[0])]).max(initial=0))


def step(experiment: Experiment) -> None:
    optimizer = experiment.trainer.optimizer
    losses = experiment.model.calculate_loss(next(iter(experiment.train_data)))
    (sum(losses) if isinstance(losses, tuple) else losses).backward()
    optimizer.step()
    optimizer.zero_grad()


def build(model: str, dataset: str, tmp_path: Path, **options: Any) -> Experiment:
    if dataset == "toy":
        return make_experiment(tmp_path, model, **options)
    values = {"data_path": str(tmp_path), "gpu_id": "", **options}
    return build_experiment(Config(model, dataset, config_dict=values), RunFolder.create(tmp_path / "run"))


@pytest.mark.parametrize(
    ("model", "dataset", "options"),
    [
        ("SIGER", "toy", {}),
        ("SIGER", "toy", {"ablation": "mp"}),
        ("SIGER", "ml-100k", {}),
        ("SIGER", "ml-100k", {"contrast_negatives": "full", "n_semantic_layers": 3}),
        ("LightGCN", "ml-100k", {}),
        ("BPR", "ml-100k", {}),
    ],
)
def test_a_step_and_an_evaluation_are_within_a_factor_of_two(
    model: str, dataset: str, options: dict[str, Any], tmp_path: Path
) -> None:
    experiment = build(model, dataset, tmp_path, **options)
    found = estimate(experiment)
    experiment.model.train()
    step(experiment)  # the optimizer makes its state
    measured = peak_bytes(lambda: step(experiment))
    assert measured / 2 <= found.total("step") <= measured * 2
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    measured = peak_bytes(lambda: experiment.trainer.evaluate(experiment.valid_data, load_best_model=False))
    assert measured / 2 <= found.total("evaluation") <= measured * 2


def test_what_is_built_is_counted_exactly(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "SIGER")
    model, found = experiment.model, {term.name: term for term in estimate(experiment).terms}
    n_parameters = sum(p.numel() for p in model.parameters())
    assert found["parameters"].n_bytes == found["best epoch"].n_bytes == 4 * n_parameters
    assert found["gradients"].n_bytes == 4 * n_parameters
    step(experiment)
    state = [value for entries in experiment.trainer.optimizer.state.values() for value in entries.values()]
    assert found["optimizer (adam)"].n_bytes == sum(value.nbytes for value in state if value.dim() > 0)
    buffers = {b.untyped_storage().data_ptr(): b.untyped_storage().nbytes() for b in model.buffers()}
    tables = [*model.raw_features.values(), model.train_edges]
    buffers |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tables}
    counted = sum(term.n_bytes for name, term in found.items() if name.startswith("graphs and tables"))
    assert counted == sum(buffers.values())


def test_the_graph_of_a_recbole_model_is_counted(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "LightGCN")
    product = experiment.model.norm_adj_matrix.product
    found = {term.name: term.n_bytes for term in estimate(experiment).terms}
    assert found["graphs and tables: norm_adj_matrix"] == sum(
        buffer.untyped_storage().nbytes() for buffer in product.buffers()
    )


def test_a_run_that_cannot_fit_never_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path, "SIGER", train_batch_size=999)
    needed = estimate(experiment).to_come
    monkeypatch.setattr(estimate_module, "available", lambda device: needed)
    check_fits(experiment)
    monkeypatch.setattr(estimate_module, "available", lambda device: None)
    check_fits(experiment)
    monkeypatch.setattr(estimate_module, "available", lambda device: needed - 1)
    message = r"largest term is activations of a step .*: lower train_batch_size.*--check_memory=warn$"
    with pytest.raises(UserError, match=message):
        experiment.train()
    assert not experiment.run.file("metrics.jsonl").exists()


@pytest.mark.parametrize("model", ["SIGER", "DMF"])  # pairs, and points of which half are negative
def test_a_batch_has_no_more_rows_than_an_epoch(model: str, tmp_path: Path) -> None:
    more = make_experiment(tmp_path / "more", model, train_batch_size=10**12)
    (batch,) = more.train_data
    whole = make_experiment(tmp_path / "whole", model, train_batch_size=len(batch))
    assert len(whole.train_data) == 1
    assert estimate(more) == estimate(whole)


@pytest.mark.parametrize(
    ("model", "mode", "warned"),
    [("SIGER", "ignore", False), ("SIGER", "warn", True), ("DMF", "refuse", True), ("DMF", "ignore", False)],
)
def test_the_check_of_memory_can_be_overridden(
    model: str,
    mode: Any,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    experiment = make_experiment(tmp_path, model, check_memory=mode)
    monkeypatch.setattr(estimate_module, "available", lambda device: 10)
    with caplog.at_level("WARNING"):
        check_fits(experiment)
    assert ("training needs about" in caplog.text) is warned


@pytest.mark.parametrize("model", ["SIGER", "BPR"])
def test_tables_that_cannot_be_made_are_refused_before_they_are(model: str, tmp_path: Path) -> None:
    """Allocating them would end in a MemoryError, or in minutes of swapping."""
    message = (
        r"embedding_size=4611686018427387904: the embeddings of 31 users and 23 items need .*; lower emb"
    )
    with pytest.raises(UserError, match=message):
        make_experiment(tmp_path, model, embedding_size=2**62)


@pytest.mark.parametrize("mode", ["maybe", 2, False])
def test_another_value_of_the_check_is_refused(mode: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"check_memory=.*: expected one of 'refuse', 'warn', 'ignore'"):
        make_experiment(tmp_path, "BPR", check_memory=mode)


def test_swap_is_free_memory(tmp_path: Path) -> None:
    left = estimate_module._left_in_container
    assert left(tmp_path, 7) is None
    for name, text in {"max": "100", "current": "60", "stat": "anon 5\nfile 11"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert left(tmp_path, 7) == 51  # swap is off for the group
    for maximum, current, swap in [("max", "3", 7), ("5", "3", 2), ("90", "3", 7), ("3", "3", 0)]:
        (tmp_path / "memory.swap.max").write_text(maximum)
        (tmp_path / "memory.swap.current").write_text(current)
        assert left(tmp_path, 7) == 51 + swap
    (tmp_path / "memory.max").write_text("max")
    assert left(tmp_path, 7) is None


def test_what_the_system_can_give_is_asked() -> None:
    free = estimate_module.available(torch.device("cpu"))
    assert free is None or 0 < free < 1 << 60


def test_the_command_prints_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["estimate", "--model=BPR", "--dataset=ml-100k", "--gpu_id=", "--embedding_size=32"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    parameters = 4 * 32 * (944 + 1683) / MIB
    assert f"{parameters:.1f}" in printed
    assert "largest" in printed
    assert "gradients" in printed
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(estimate_module, "available", lambda device: 2**19)
    assert cli.main(words) == 2
    assert "training needs about" in capsys.readouterr().err
