"""Run, resume and evaluate one experiment.

RecBole's own ``recbole.quick_start`` is not used: it imports Ray and pickles what it saves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.common.log import logging_to
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.registry import short_name
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment, config_of_run, load_experiment
from recbole_siger.training.processes import n_processes, train_in_processes

__all__ = ["evaluate_run", "resume_run", "run_experiment"]


def run_experiment(
    model: str | type[Any] | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command_line: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train a model, test its best validation epoch, and leave a run folder.

    Args:
        model: Registered name, import path ``package.module:Class``, or model class.
        dataset: Dataset name.
        config_file_list: YAML files.
        config_dict: Values from Python.
        command_line: ``{key: text}`` as typed.

    Returns:
        What ``results.json`` holds, and ``run_dir``.

    Raises:
        UserError: For bad input.
    """
    config = Config(model, dataset, config_file_list, config_dict, command_line)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = (
        Path("runs") / config["dataset"] / f"{short_name(config['model'])}-{stamp}-seed{config.run.seed}"
    )
    run = RunFolder.create(config.run.run_dir or default)
    if n_processes(config) > 1:
        try:
            return train_in_processes(config, run, resume=False)
        finally:
            run.discard_unstarted()
    try:
        with logging_to(run.file("run.log")):
            experiment = build_experiment(config, run)
            experiment.begin()
            return experiment.train()
    finally:
        run.discard_unstarted()


def resume_run(
    run_dir: str | Path, data_path: str | Path | None = None, model: str | type[Any] | None = None
) -> dict[str, Any]:
    """Continue an interrupted run from its last checkpoint; the result is that of an uninterrupted one.

    Args:
        run_dir: The run folder.
        data_path: Where the datasets are, if not where they were in training.
        model: The model of the run; needed if the run folder names an import path.

    Raises:
        UserError: If the folder is no run, is finished, or has no checkpoint.
    """
    run = RunFolder.open(run_dir)
    if run.file("results.json").exists():
        raise UserError(
            f"{run_dir}: this run is finished; `recbole-siger evaluate {run_dir}` shows its results"
        )
    config = config_of_run(run, data_path, model)
    if n_processes(config) > 1:
        return train_in_processes(config, run, resume=True)
    with logging_to(run.file("run.log")):
        experiment = build_experiment(config, run)
        experiment.take_up()
        return experiment.train()


def evaluate_run(
    run_dir: str | Path, data_path: str | Path | None = None, model: str | type[Any] | None = None
) -> dict[str, float]:
    """Rebuild the model of a run folder and test it; nothing is written.

    Args:
        run_dir: The run folder.
        data_path: Where the datasets are, if not where they were in training.
        model: The model of the run; needed if the run folder names an import path.

    Raises:
        UserError: If a file is missing, damaged or foreign, or the dataset is another one now.
    """
    with logging_to(None):
        experiment = load_experiment(run_dir, data_path, model)
        experiment.trainer.eval_collector.data_collect(experiment.train_data)
        return experiment.test()
