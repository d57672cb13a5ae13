"""Start one training in several processes, with Ray Train.

RecBole's own path (``nproc``, ``world_size``) does not support this. It works with NCCL and CUDA only. It
seeds each process differently, so noise and pruned graphs differ between replicas. Its evaluation repeats
users to fill the last batch.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from typing import Any

from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.log import following, logging_to
from recbole_siger.config import Config
from recbole_siger.data.loaders import TrainLoader
from recbole_siger.errors import UserError
from recbole_siger.parallel.ray import check_room, connected, failure_line
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment

__all__ = ["check_shares", "n_processes", "threads_of_process", "train_in_processes"]


def n_processes(config: Config) -> int:
    """Return the number of processes of a run.

    Raises:
        UserError: If the key ``nproc`` is not a positive integer.
    """
    value = config.final_config_dict.get("nproc")
    if value is None:
        return 1
    if type(value) is not int or value < 1:
        raise UserError(f"{config.origin['nproc']}: nproc={value!r}: expected an integer in [1, inf)")
    return value


def threads_of_process() -> int:
    """Return the threads of torch in each of several processes, unless the key ``threads`` sets them."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def check_shares(config: Config, train_data: Any) -> None:
    """Check that the batches of a model and the users to rank can be divided among processes.

    Raises:
        UserError: If the model makes its own batches, or if the evaluation does not rank all items.
    """
    if not isinstance(train_data, TrainLoader):
        raise UserError(f"nproc: {config['model']} makes its own batches; remove nproc")
    if (modes := {*config["eval_args"]["mode"].values()}) != {"full"}:
        raise UserError(
            f"nproc: several processes rank all items, not mode={'/'.join(sorted(modes))}; remove nproc, "
            "or set mode of eval_args to full"
        )


def train_in_processes(config: Config, run: RunFolder, *, resume: bool) -> dict[str, Any]:
    """Train in ``nproc`` processes; each step sees ``nproc * train_batch_size`` rows.

    Losses equal those of one process with the larger batch. Exceptions: VBPR's norm, BM3's dropout, and
    contrasts within a batch in RecBole's models are computed in each process. Users are divided, and each
    user is ranked once.

    Each process has a GPU of its own, and NCCL adds the gradients. If there are fewer GPUs than processes,
    processes share GPUs, and gloo adds the gradients: NCCL rejects two processes on one GPU.

    Args:
        config: The configuration.
        run: The run folder; the first process writes it.
        resume: Whether to continue from the run folder's checkpoint.

    Returns:
        The content of ``results.json``, and ``run_dir``.

    Raises:
        UserError: If a process fails, with its reason.
    """
    n, on_gpu = n_processes(config), config["device"].type == "cuda"
    plan = {"values": config.portable(), "run": str(run.path.resolve()), "resume": resume}
    with connected(None, "nproc", library="train"), following(run.file("run.log")):
        gpus = _gpus_of_process(n) if on_gpu else 0.0
        check_room(n, {"CPU": 1.0, "GPU": gpus}, f"nproc={n}", "lower nproc")
        _fit(plan, n, gpus)
    return {**run.read_results(), "run_dir": str(run.path)}


def _gpus_of_process(n: int) -> float:
    """Return the GPUs of each of ``n`` processes: one, or a part of one if Ray has fewer GPUs."""
    import ray

    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    return 1.0 if n_gpus >= n or n_gpus == 0 else 1 / math.ceil(n / n_gpus)


def _fit(plan: dict[str, Any], n: int, gpus: float) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        """Leave interrupts to this process; Ray's own handler ends the process with exit code 1, silently."""

        def _register_sigint_handler(self, controller: Any) -> None: ...

    talk = logging.getLogger("ray.train")
    level = talk.level
    talk.setLevel(logging.CRITICAL)
    with scratch_folder() as scratch:
        workers = ScalingConfig(num_workers=n, use_gpu=gpus > 0, resources_per_worker={"CPU": 1, "GPU": gpus})
        try:
            Trainer(
                _work,
                train_loop_config=plan,
                torch_config=TorchConfig(backend="gloo" if gpus < 1 else "nccl"),
                scaling_config=workers,
                run_config=RunConfig(storage_path=str(scratch)),
            ).fit()
        except Exception as error:  # Ray's classes for an exception of a worker differ by version
            raise UserError(
                f"{plan['run']}: training in {n} processes: {failure_line(str(error))}"
            ) from error
        finally:
            talk.setLevel(level)


def _work(plan: dict[str, Any]) -> None:
    """Run one of the processes."""
    import torch
    from ray.train import get_context

    torch.set_num_threads(threads_of_process())
    rank, run = get_context().get_world_rank(), RunFolder(plan["run"])
    with scratch_folder() as scratch:
        if rank > 0:  # equal files, deleted afterwards
            own = RunFolder(scratch / "run")
            shutil.copytree(run.path, own.path) if plan["resume"] else own.path.mkdir()
            run = own
        torch.distributed.barrier()
        config = Config(plan["values"]["model"], config_dict=plan["values"])
        with logging_to(run.file("run.log")):
            experiment = build_experiment(config, run)
            check_shares(config, experiment.train_data)
            experiment.resume() if plan["resume"] else experiment.begin()
            experiment.train()
