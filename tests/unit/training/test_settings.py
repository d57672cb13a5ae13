"""What a run sets for the process holds during the run and is restored after it, also after an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.config import Config
from recbole_siger.quick_start import evaluate_run, resume_run, run_experiment
from recbole_siger.registry import get_model_class
from recbole_siger.training.settings import flushes_denormals, run_settings
from tests.conftest import make_experiment, make_toy, process_settings

ROOT = Path(__file__).parents[3]


def make_config(**options: Any) -> Config:
    return Config("BPR", "toy", config_dict={"gpu_id": "", **options})


def test_flushing_is_detected() -> None:
    assert not flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)
    assert not flushes_denormals()


@pytest.mark.parametrize("reproducible", [True, False])
def test_settings_hold_in_the_block_and_are_restored(
    reproducible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, threads = process_settings(), torch.get_num_threads() + 1
    config = make_config(gpu_id="1", reproducibility=reproducible, threads=threads)
    assert process_settings() == before  # RecBole's Config sets CUDA_VISIBLE_DEVICES
    with pytest.raises(RuntimeError), run_settings(config):  # noqa: PT012  # what holds before it counts
        inside = process_settings()
        with run_settings(make_config(gpu_id="", reproducibility=reproducible)):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        assert process_settings() == inside
        raise RuntimeError
    assert (inside["CUDA_VISIBLE_DEVICES"], inside["flush"], inside["threads"]) == ("1", True, threads)
    assert inside["CUBLAS_WORKSPACE_CONFIG"] == (":4096:8" if reproducible else None)
    assert (inside["deterministic"], inside["fill"]) == ((1, False) if reproducible else (0, before["fill"]))
    assert process_settings() == before


def test_a_workspace_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with run_settings(make_config(reproducibility=True)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def noting(monkeypatch: pytest.MonkeyPatch, noted: list[tuple[Any, ...]]) -> None:
    """Note the settings under which BPR trains and ranks."""
    cls = get_model_class("BPR")

    def noted_call(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any) -> Any:
            found = process_settings()
            noted.append((method.__name__, found["deterministic"], found["flush"], found["threads"]))
            return method(self, *arguments)

        return call

    for name in ("calculate_loss", "full_sort_predict"):
        monkeypatch.setattr(cls, name, noted_call(getattr(cls, name)))


def test_a_run_trains_and_ranks_under_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[Any, ...]] = []
    noting(monkeypatch, noted)
    threads = torch.get_num_threads() + 1
    expected = {("calculate_loss", 1, True, threads), ("full_sort_predict", 1, True, threads)}
    make_toy().write(tmp_path / "data" / "toy")
    options = {
        "data_path": str(tmp_path / "data"),
        "gpu_id": "",
        "epochs": 2,
        "topk": [3],
        "threads": threads,
    }
    options |= {"valid_metric": "Recall@3", "checkpoint_interval": 0, "run_dir": str(tmp_path / "run")}
    results = run_experiment("BPR", "toy", config_dict=options)
    assert set(noted) == expected
    assert results["threads"] == threads
    noted.clear()
    assert evaluate_run(tmp_path / "run") == results["test"]
    assert set(noted) == {("full_sort_predict", 1, True, threads)}
    noted.clear()
    (tmp_path / "run" / "results.json").unlink()
    resume_run(tmp_path / "run")
    assert set(noted) == expected


def test_the_parts_of_a_run_bring_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[Any, ...]] = []
    noting(monkeypatch, noted)
    experiment = make_experiment(tmp_path, "BPR")
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    experiment.trainer.evaluate(experiment.test_data)
    assert {(deterministic, flush) for _, deterministic, flush, _ in noted} == {(1, True)}


IMPORTS = """
import json, os, sys, warnings
import numpy, scipy.sparse, torch, pandas, rich.live, safetensors.torch
import recbole.config, recbole.data, recbole.evaluator, recbole.trainer.trainer, recbole.utils

def look():
    trainer = recbole.trainer.trainer
    return [
        "float" in vars(numpy), "str" in vars(numpy), hasattr(scipy.sparse.dok_matrix, "_update"),
        "kmeans_pytorch" in sys.modules, trainer.get_tensorboard.__module__,
        recbole.config.Config.compatibility_settings.__module__, len(warnings.filters),
        dict(os.environ), torch.get_num_threads(), torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory, (torch.tensor([1e-40]) * 1).item() == 0,
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.initial_seed(),
    ]

before = look()
import recbole_siger, recbole_siger.config, recbole_siger.quick_start, recbole_siger.training.trainer
import recbole_siger.tuning, recbole_siger.cli, recbole_siger.studies.compare, recbole_siger.audit.checks
print(json.dumps([before, look()]))
"""


def test_importing_patches_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert after == before
    assert before[:4] == [False, False, False, False]
    assert list(tmp_path.iterdir()) == []
