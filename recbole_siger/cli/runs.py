"""Commands about one run: train, resume, evaluate, inspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recbole_siger.cli.arguments import one_run_folder, read_keys, read_options, single_values
from recbole_siger.errors import UserError

__all__ = ["COMMANDS", "USAGE"]

USAGE = """\
  run --model=SIGER --dataset=ml-100k [--config_files "a.yaml b.yaml"] [--key=value ...] [--dry_run]
                        train, select on validation, test, and leave a run folder
  estimate --model=SIGER --dataset=ml-100k [any option of run]
                        memory that a run will need, before it trains
  resume RUN_DIR        continue an interrupted run
  evaluate RUN_DIR      test a run again, in a fresh process
                        both take --data_path=FOLDER where the data have moved, and need the
                        --model=package.module:Class of a run that was started with one
  config MODEL [--dataset=NAME]
                        every option of a model: default, range and meaning
  models                every model name and its package
"""


def _run(words: Sequence[str]) -> int:
    found = read_keys(words, flags=("dry_run",))
    values = single_values(found)
    dry_run = values.pop("dry_run", "False").lower() in ("true", "1", "yes")
    files = values.pop("config_files", "").split()
    model, dataset = values.pop("model", None), values.pop("dataset", None)
    if dry_run:
        from recbole_siger.cli.describe import print_effective

        print_effective(model, dataset, files, values)
        return 0
    from recbole_siger.quick_start import run_experiment

    run_experiment(model, dataset, files, command_line=values)
    return 0


def _estimate(words: Sequence[str]) -> int:
    found = read_keys(words)
    values = single_values(found)
    files = values.pop("config_files", "").split()
    from recbole_siger.cli.estimate import print_estimate

    print_estimate(values.pop("model", None), values.pop("dataset", None), files, values)
    return 0


def _resume(words: Sequence[str]) -> int:
    from recbole_siger.quick_start import resume_run

    resume_run(*one_run_folder(words, "resume"))
    return 0


def _evaluate(words: Sequence[str]) -> int:
    run_dir, data_path, model = one_run_folder(words, "evaluate")
    from recbole_siger.quick_start import evaluate_run
    from recbole_siger.training.experiment import format_metrics

    print(f"test   {format_metrics(evaluate_run(run_dir, data_path, model))}")
    return 0


def _config(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    values = single_values(found)
    if len(positional) != 1 or set(values) - {"dataset"}:
        raise UserError("command line: write `recbole-siger config MODEL [--dataset=NAME]`")
    from recbole_siger.cli.describe import print_options

    print_options(positional[0], values.get("dataset"))
    return 0


def _models(words: Sequence[str]) -> int:
    if words:
        raise UserError("command line: write `recbole-siger models`")
    from recbole_siger.registry import model_packages

    for name, package in model_packages().items():
        print(f"{name:20} {package}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "estimate": _estimate,
    "resume": _resume,
    "evaluate": _evaluate,
    "config": _config,
    "models": _models,
}
