"""Commands about one run: train, resume, evaluate, inspect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from recbole_siger.cli.check import check_run
from recbole_siger.cli.command import Command, option
from recbole_siger.cli.common import dataset, keys_of_run, model, run_options
from recbole_siger.common.numbers import whole_number
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.options.command import files_of
from recbole_siger.registry import check_model_name

__all__ = ["COMMANDS"]

ALL_KEYS = (
    "Any key of the configuration is an option too. `recbole-siger config MODEL` lists every key of a model, "
    "and `--model=MODEL --help` shows the model's own."
)
RUN_WORDS = "--model=NAME --dataset=NAME [--key=value ...]"
FOLDER_WORDS = "RUN_DIR [--data_path=FOLDER] [--model=NAME]"


def run_command() -> Command:
    """Return the command ``run``."""
    dry = "Print every effective value and its source; train and write nothing."
    return Command(
        "run",
        _run,
        [*run_options(), option("dry_run", dry, kind="bool", default="False")],
        usage=RUN_WORDS,
        summary="Train a model, choose the epoch on validation, test that epoch, and write a run folder.",
        example="recbole-siger run --model=SIGER --dataset=ml-100k --co_weight=0.3",
        keys=True,
        sections=keys_of_run,
        note=ALL_KEYS,
    )


def _run(
    model: str | None,
    dataset: str | None,
    config_files: str | None,
    dry_run: bool | None,
    keys: dict[str, str],
) -> None:
    files = files_of(config_files)
    check_run(model, dataset, files, keys)
    if dry_run:
        from recbole_siger.cli.describe import print_effective

        print_effective(model, dataset, files, keys)
        return
    from recbole_siger.quick_start import run_experiment

    run_experiment(model, dataset, files, command_line=keys)


def estimate_command() -> Command:
    """Return the command ``estimate``."""
    steps = "Training steps to time, after a warm-up; 0 times nothing."
    return Command(
        "estimate",
        _estimate,
        [
            *run_options(),
            option("timed_steps", steps, metavar="INT", default="10"),
            option("json", "Whether JSON is printed instead of a table.", kind="bool", default="False"),
        ],
        usage=RUN_WORDS,
        summary="Print the memory and the time that a run will need. No run folder is written.",
        example="recbole-siger estimate --model=SIGER --dataset=ml-100k --train_batch_size=4096",
        keys=True,
        sections=keys_of_run,
        note=ALL_KEYS,
    )


def _estimate(
    model: str | None,
    dataset: str | None,
    config_files: str | None,
    timed_steps: str | None,
    json: bool | None,
    keys: dict[str, str],
) -> None:
    files = files_of(config_files)
    steps = _number_of_steps("10" if timed_steps is None else timed_steps)
    check_run(model, dataset, files, keys)
    from recbole_siger.cli.estimate import print_estimate

    print_estimate(model, dataset, files, keys, steps, as_json=bool(json))


def _number_of_steps(text: str) -> int:
    if (number := whole_number(text)) is None:
        raise UserError(f"command line: --timed_steps={text}: expected an integer in [0, inf)")
    return number


def _of_one_folder(name: str, callback: Callable[..., None], summary: str, example: str) -> Command:
    moved = "Folder of the datasets, if the data have moved since the run."
    return Command(
        name,
        callback,
        [
            click.Argument(["run_dir"]),
            option("data_path", moved, metavar="FOLDER"),
            model("Model of a run that was started with --model=package.module:Class, by the same path."),
            option("gpu_id", "GPUs to use; by default those of the run's first session.", metavar="TEXT"),
        ],
        usage=FOLDER_WORDS,
        summary=summary,
        example=example,
    )


def resume_command() -> Command:
    """Return the command ``resume``."""
    example = "recbole-siger resume runs/ml-100k/SIGER-20260101-120000-seed2020"
    return _of_one_folder("resume", _resume, "Continue an interrupted run from its last checkpoint.", example)


def _resume(run_dir: str, data_path: str | None, model: str | None, gpu_id: str | None) -> None:
    from recbole_siger.quick_start import resume_run

    resume_run(Path(run_dir), data_path, model, gpu_id=gpu_id)


def evaluate_command() -> Command:
    """Return the command ``evaluate``."""
    example = "recbole-siger evaluate runs/ml-100k/SIGER-20260101-120000-seed2020"
    return _of_one_folder("evaluate", _evaluate, "Test the model of a finished run again.", example)


def _evaluate(run_dir: str, data_path: str | None, model: str | None, gpu_id: str | None) -> None:
    from recbole_siger.quick_start import evaluate_run
    from recbole_siger.training.experiment import format_metrics

    test = evaluate_run(Path(run_dir), data_path, model, gpu_id=gpu_id)
    print_line(f"test   {format_metrics(test)}")


def config_command() -> Command:
    """Return the command ``config``."""
    return Command(
        "config",
        _config,
        [
            click.Argument(["model"]),
            dataset("Dataset whose own defaults are shown; by default those of any dataset."),
        ],
        usage="MODEL [--dataset=NAME]",
        summary="Print every option of a model: default, type, range and meaning.",
        example="recbole-siger config SIGER --dataset=ml-100k",
    )


def _config(model: str, dataset: str | None) -> None:
    check_model_name(model)
    from recbole_siger.cli.describe import print_options

    print_options(model, dataset)


def models_command() -> Command:
    """Return the command ``models``."""
    return Command(
        "models",
        _models,
        [],
        usage="",
        summary="Print every model: its package; of ours, the paper, the features that it reads, cold items.",
        example="recbole-siger models",
    )


def _models() -> None:
    from recbole_siger.registry import MODELS, model_packages

    for name, package in model_packages().items():
        facts = MODELS[name].facts if name in MODELS else ""
        print_line(f"{name:20} {package:14} {facts}".rstrip())


COMMANDS: dict[str, Callable[[], Command]] = {
    "run": run_command,
    "estimate": estimate_command,
    "resume": resume_command,
    "evaluate": evaluate_command,
    "config": config_command,
    "models": models_command,
}
