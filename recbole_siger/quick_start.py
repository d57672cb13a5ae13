"""Run, resume and evaluate one experiment.

RecBole's own ``recbole.quick_start`` is not used: it imports Ray and pickles what it saves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.common.log import logging_to
from recbole_siger.config import Config
from recbole_siger.errors import RunInterrupted, UserError
from recbole_siger.registry import short_name
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment, config_of_run, load_experiment
from recbole_siger.training.processes import n_processes, train_in_processes
from recbole_siger.training.settings import run_settings

__all__ = ["evaluate_run", "resume_run", "run_experiment"]

_log = logging.getLogger(__name__)


def run_experiment(
    model: str | type[Any] | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train a model, test its best validation epoch, and write a run folder.

    Args:
        model: Registered name, import path ``package.module:Class``, or model class.
        dataset: Dataset name.
        config_file_list: YAML files.
        config_dict: Values from Python.
        command_line: ``{key: text}`` as typed.

    Returns:
        The content of ``results.json``, and ``run_dir``.

    Raises:
        UserError: If the input is invalid.
        RunInterrupted: At an interrupt of a run that :func:`resume_run` can continue.
    """
    config = Config(model, dataset, config_file_list, config_dict, command_line)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = (
        Path("runs") / config["dataset"] / f"{short_name(config['model'])}-{stamp}-seed{config.run.seed}"
    )
    asked = config.run.run_dir
    run = RunFolder.create(asked or default, numbered=asked is None)
    with run.locked(unused=True):
        return _train(config, run, resume=False)


def resume_run(
    run_dir: str | Path,
    data_path: str | Path | None = None,
    model: str | type[Any] | None = None,
    *,
    gpu_id: str | None = None,
) -> dict[str, Any]:
    """Continue an interrupted run from its last checkpoint; the result is the result of an uninterrupted run.

    Args:
        run_dir: The run folder.
        data_path: Where the datasets are, if not where they were in training.
        model: The model of the run; required if the run folder names an import path.
        gpu_id: Which GPUs the run sees; by default those of its first session.

    Raises:
        UserError: If the folder is not a run folder or the run is finished.
        RunInterrupted: At another interrupt.
    """
    run = RunFolder.open(run_dir)
    with run.locked():
        if run.finished:
            raise UserError(
                f"{run_dir}: this run is finished; `recbole-siger evaluate {run_dir}` shows its results"
            )
        config = config_of_run(run, data_path, model, prepare=None, **_given(gpu_id))
        return _train(config, run, resume=True, data_path=data_path)


def _train(
    config: Config, run: RunFolder, *, resume: bool, data_path: str | Path | None = None
) -> dict[str, Any]:
    """Train in this process, or in ``nproc`` processes; first log the name of the run folder.

    Args:
        config: The configuration.
        run: The run folder.
        resume: Whether to continue from the checkpoint.
        data_path: Folder of the datasets for the command that continues the run.

    Raises:
        RunInterrupted: At an interrupt, if the run can be continued.
    """
    several = n_processes(config) > 1
    try:
        with run_settings(config), logging_to(None if several else run.file("run.log")):
            _log.info("run folder: %s", run.path)
            if resume and run.read_config().get("log_wandb"):
                _log.warning("%s: log_wandb has no effect on a resumed run", run.file("config.yaml"))
            if several:
                return train_in_processes(config, run, resume=resume)
            experiment = build_experiment(config, run)
            experiment.resume() if resume else experiment.begin()
            return experiment.train()
    except KeyboardInterrupt:
        if run.file("config.yaml").exists():
            model = config["model"] if ":" in config["model"] else None
            raise RunInterrupted(run.path, data_path=data_path, model=model) from None
        raise


def _given(gpu_id: str | None) -> dict[str, str]:
    return {} if gpu_id is None else {"gpu_id": gpu_id}


def evaluate_run(
    run_dir: str | Path,
    data_path: str | Path | None = None,
    model: str | type[Any] | None = None,
    *,
    gpu_id: str | None = None,
) -> dict[str, float]:
    """Rebuild the model of a run folder and test it; nothing is written.

    Args:
        run_dir: The run folder.
        data_path: Where the datasets are, if not where they were in training.
        model: The model of the run; required if the run folder names an import path.
        gpu_id: Which GPUs the test sees; by default those of the run's first session.

    Raises:
        UserError: If a file is missing, damaged or of another model, or the dataset has changed.
    """
    with logging_to(None):
        experiment = load_experiment(run_dir, data_path, model, **_given(gpu_id))
        with run_settings(experiment.config):
            experiment.trainer.eval_collector.data_collect(experiment.train_data)
            return experiment.test()
