"""The settings of torch and of this process that hold for a run and are restored after the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.backends import cudnn

from recbole_siger.common.process import restored_environment
from recbole_siger.config import Config

__all__ = ["flushes_denormals", "run_settings", "unmoved", "visible_gpus"]


@contextmanager
def visible_gpus(config: Config) -> Iterator[None]:
    """Show CUDA, and processes that are started in the block, the GPUs of the key ``gpu_id`` only."""
    with restored_environment("CUDA_VISIBLE_DEVICES"):
        os.environ["CUDA_VISIBLE_DEVICES"] = config["gpu_id"]
        yield


@contextmanager
def unmoved(generator: torch.Generator | None) -> Iterator[None]:
    """Give a generator its state back after the block, in which an evaluation may draw."""
    state = None if generator is None else generator.get_state()
    yield
    if generator is not None and state is not None:
        generator.set_state(state)


@contextmanager
def run_settings(config: Config) -> Iterator[None]:
    """Set the state that a run requires: GPUs, determinism, flushed denormals, threads; restore it later.

    ``build_experiment``, :meth:`Experiment.train` and the trainer's ``fit`` and ``evaluate`` do this
    themselves. Use it around computations with a model of a run. Blocks may be nested. The settings are those
    of the whole process, so two runs in two threads of one process disturb each other. Random generators are
    not restored.

    Denormals are flushed in the calling thread and in OpenMP threads that are started during the block;
    torch cannot change OpenMP threads that are already running.

    Args:
        config: The keys ``gpu_id``, ``reproducibility`` and ``threads`` are read.
    """
    reproducible = bool(config["reproducibility"])
    with ExitStack() as after:
        after.enter_context(visible_gpus(config))
        after.enter_context(restored_environment("CUBLAS_WORKSPACE_CONFIG"))

        _restore_attributes(after, cudnn, "benchmark", "deterministic")  # RecBole's init_seed sets both
        _restore_attributes(after, torch.utils.deterministic, "fill_uninitialized_memory")
        after.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
        # Otherwise scattered gradients are summed in the order in which threads finish.
        torch.set_deterministic_debug_mode("warn" if reproducible else "default")
        if reproducible:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it for determinism
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # untyped

        after.callback(torch.set_flush_denormal, flushes_denormals())
        # Gates saturated by unscaled features produce denormals, which make a product on CPU twenty times
        # slower.
        torch.set_flush_denormal(True)

        threads, before = config.run.threads, torch.get_num_threads()
        if threads is not None and threads != before:
            after.callback(torch.set_num_threads, before)
            torch.set_num_threads(threads)
        yield


def _restore_attributes(after: ExitStack, owner: Any, *names: str) -> None:
    for name in names:
        after.callback(setattr, owner, name, getattr(owner, name))


def flushes_denormals() -> bool:
    """Return whether this thread flushes denormal numbers to zero; torch has no such function."""
    return bool((torch.tensor([1e-40]) * 1).item() == 0)  # the smallest normal float32 is 1.2e-38
