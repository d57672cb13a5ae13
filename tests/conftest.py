"""Experiments on the toy dataset of ``recbole_siger.testing``, and fixtures for all tests."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger import cli
from recbole_siger.studies.children import Children
from recbole_siger.testing import experiments
from recbole_siger.testing.experiments import BATCH, first_batch, score_table, start_epoch, train_steps
from recbole_siger.testing.toy import N_ITEMS, N_USERS, WIDTHS, Toy, make_toy
from recbole_siger.training.experiment import Experiment
from recbole_siger.training.settings import flushes_denormals

__all__ = [
    "BATCH",
    "MODEL_OPTIONS",
    "N_ITEMS",
    "N_USERS",
    "WIDTHS",
    "Toy",
    "first_batch",
    "make_experiment",
    "make_toy",
    "score_table",
    "start_epoch",
    "train_steps",
]

# What a model needs beside `small_values` to be small and fast; a model without an entry needs nothing.
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "SIGER": {"n_semantic_neighbors": 5, "n_co_neighbors": 3},
    "LATTICE": {"n_semantic_neighbors": 5},
    "FREEDOM": {"n_semantic_neighbors": 5},
    "MGCN": {"n_semantic_neighbors": 5},
    "DiffMM": {"hidden_size": 11},
    "MENTOR": {"n_semantic_neighbors": 5, "hidden_size": 11},
    "MIGGT": {"hidden_size": 11, "n_samples": 3},
    "SCALE": {
        "n_semantic_neighbors": 3,
        "n_candidates": 11,
        **dict.fromkeys(("user_sparsity", "item_sparsity", "user_item_sparsity"), 3),
    },
}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the whole suite in two processes, and tests that the command line names in this process.

    ``-n N`` sets another number. Each process spends seconds on its imports, too much for a few tests.
    """
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else 2


def pytest_configure() -> None:
    """Hear interrupts, and let what tests start hear them: a shell has its background jobs ignore them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def make_experiment(tmp_path: Path, model: str, toy: Toy | None = None, **options: Any) -> Experiment:
    """Build a small experiment, with what makes a registered model small."""
    return experiments.make_experiment(tmp_path, model, toy, **{**MODEL_OPTIONS.get(model, {}), **options})


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep graphs in a folder of this session and never in the user's, in other processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def process_settings() -> dict[str, Any]:
    """Return what a run sets for the whole process."""
    return {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "deterministic": torch.get_deterministic_debug_mode(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "flush": flushes_denormals(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """Fail a test after which a setting of a run is still set."""
    before = process_settings()
    yield
    assert process_settings() == before


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray of two processors for the tests of a file; a command uses a Ray that is connected already.

    A test with this fixture is in the xdist group ``ray``.
    """
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let a campaign's commands run in this process, which spares seconds each; returns them as they come."""
    commands: list[list[str]] = []

    def run(_: Any, words: Sequence[str], report: Callable[[str], None]) -> tuple[int, str]:
        commands.append(list(words))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
        for line in out.getvalue().splitlines():
            report(line)
        return code, err.getvalue()

    monkeypatch.setattr(Children, "run", run)
    return commands
