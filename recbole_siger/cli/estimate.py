"""Print the memory and the time that a run will need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.log import logging_to
from recbole_siger.common.terminal import build_table, open_console, print_line
from recbole_siger.config import Config
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import Experiment, build_experiment
from recbole_siger.training.memory import MIB, Estimate, check_fits, estimate, shortage
from recbole_siger.training.processes import check_shares, n_processes
from recbole_siger.training.progress import shown_seconds, shown_span
from recbole_siger.training.timing import Timing, time_run

__all__ = ["print_estimate"]


def print_estimate(
    model: str | None,
    dataset: str | None,
    files: Sequence[str],
    values: Mapping[str, str],
    n_steps: int,
    *,
    as_json: bool = False,
) -> None:
    """Build a run, print the memory that it holds and will need, take a few steps, and print the times.

    Nothing is written but graphs in the cache. No step is taken if the memory does not suffice.

    Args:
        model: Model name; by default the key ``model`` of the files.
        dataset: Dataset name; by default the key ``dataset`` of the files.
        files: Configuration files.
        values: Keys of the configuration as typed.
        n_steps: Number of timed steps, >= 0; 0 takes no step.
        as_json: Print JSON with the keys of :func:`_report`.

    Raises:
        UserError: If the run cannot be built or cannot fit into memory.
    """
    config = Config(model, dataset, files, command_line=values)
    n = n_processes(config)
    with scratch_folder() as folder, nullcontext() if as_json else logging_to(None):
        experiment = build_experiment(config, RunFolder(folder))
        if n > 1:
            check_shares(config, experiment.train_data)
        found = estimate(experiment)
        if not as_json:
            _print_memory(config, found, n)
        check_fits(experiment)
        timing = time_run(experiment, n_steps) if n_steps and _may_step(experiment) else None
    if as_json:
        print(json.dumps(_report(config, found, timing, n), indent=2))
        return
    for line in _time_lines(timing, n) if timing else ():
        print_line(line)
    if n_steps and timing is None:
        print_line("time      no step was taken; --check_memory=ignore takes steps without this check")


def _may_step(experiment: Experiment) -> bool:
    """Return whether a step is safe: the memory suffices, or the check is switched off."""
    return experiment.config.run.check_memory == "ignore" or shortage(experiment) is None


def _print_memory(config: Config, found: Estimate, n: int) -> None:
    console, title = open_console(), f"{config['model']} on {config['dataset']}"
    rows = [[term.name, f"{term.n_bytes / MIB:.1f}", term.when, term.option] for term in found.terms]
    console.print(build_table(console, title, ["memory", "MiB", "there", "lowered by"], rows))
    each = f" in each of {n} processes" if n > 1 else ""
    print_line(f"peak      {found.peak / MIB:.1f} MiB{each}, beside Python and its libraries")
    print_line(f"largest   {found.largest.name}, {found.largest.n_bytes / MIB:.1f} MiB")
    if n > 1:
        gradients = found.size_of("gradients") / MIB
        print_line(
            f"nproc     {n}: times are those of one process, which does its share of an epoch in this "
            f"process; the exchange of {gradients:.1f} MiB of gradients a step is not included"
        )


def _time_lines(timing: Timing, n: int) -> Iterator[str]:
    """Yield the lines of the time and of the measured memory."""
    threads, every = timing.threads, timing.schedule.eval_step
    yield f"device    {timing.device}" + (f", {_counted(threads, 'thread')}" if threads else "")
    steps = f"{_brief(min(timing.steps))} to {_brief(max(timing.steps))}"
    yield f"step      {_brief(timing.seconds_step)}, median of {_counted(len(timing.steps), 'step')}: {steps}"
    epoch = f"epoch     {_brief(timing.seconds_epoch)}: {_counted(timing.steps_per_epoch, 'step')} "
    valid = "without validation"
    if every:
        often = "a" if every == 1 else f"every {every} epochs a"
        valid = f"and {often} validation of {_brief(timing.seconds_valid)}"
    yield f"{epoch}{_brief(timing.seconds_train)} {valid}"
    (least, most), (shortest, longest) = timing.schedule.all_epochs, timing.seconds_run
    epochs = f"{least} to {most} epochs by early stopping" if least < most else _counted(most, "epoch")
    yield f"run       {shown_span(shortest, longest)}: {epochs}, without construction and test"
    whose = "of this process, with Python and its libraries" if threads else "of the GPU"
    yield f"measured  {timing.peak_mib:.1f} MiB, peak {whose}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _brief(seconds: float) -> str:
    """Write a duration: milliseconds below one second.

    >>> _brief(0.01234), _brief(7.5), _brief(123.4)
    ('12.3 ms', '7.50 s', '123 s')
    """
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{shown_seconds(seconds)} s"


def _report(config: Config, found: Estimate, timing: Timing | None, n: int) -> dict[str, Any]:
    """Return the estimate for JSON: ``schema`` (1), the run, ``memory`` in bytes, ``time`` in seconds."""
    report: dict[str, Any] = {
        "schema": 1,
        "model": str(config["model"]),
        "dataset": str(config["dataset"]),
        "nproc": n,
        "memory": {"peak": found.peak, "terms": [asdict(term) for term in found.terms]},
        "time": None,
    }
    if timing is not None:
        least, most = timing.schedule.all_epochs
        report["time"] = {
            "device": timing.device,
            "threads": timing.threads,
            "steps": timing.steps,
            "seconds_step": timing.seconds_step,
            "steps_per_epoch": timing.steps_per_epoch,
            "seconds_train": timing.seconds_train,
            "seconds_valid": timing.seconds_valid,
            "seconds_epoch": timing.seconds_epoch,
            "epochs": [least, most],
            "seconds_run": timing.seconds_run,
            "measured_peak_mib": timing.peak_mib,
        }
    return report
