"""Which runs a table needs, which of them are finished, and what the others will take."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from recbole_siger.common.terminal import print_line
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import check_model_name, check_stored_name, model_names
from recbole_siger.reproduce.join import RowRuns, State
from recbole_siger.reproduce.paper import PaperRow, PaperTable
from recbole_siger.studies.campaign import RunSpec, stored_runs
from recbole_siger.studies.children import silent
from recbole_siger.studies.compare import Study
from recbole_siger.studies.reuse import folders_by_hash

__all__ = ["PlannedRow", "Request", "plan_rows", "print_plan", "report_progress"]


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        dataset: Dataset name; None if the table has one dataset.
        models: Model names or labels of rows, separated by commas; None for all rows.
        seeds: Seeds of every row, as typed; None for the numbers of the file.
        options: Keys of the configuration as typed, stronger than the file.
        config_files: Configuration files of every run, weaker than the table.
        runs_dir: Folder in which run folders are looked for and made.
        runs: Further folders in which finished runs are looked for.
        jobs: Runs at a time; None for 1 on this machine, or as many as a cluster can hold.
        address: Address of a Ray cluster; None for processes of this machine.
        cpus_per_run: CPUs that Ray reserves for a run.
        gpus_per_run: GPUs that Ray reserves for a run.
        out: Folder of the results; None for ``<runs_dir>/<dataset>/reproduce-<name>``.
        original_features: Whether the dataset has the features of the paper, so that no row is skipped.
    """

    dataset: str | None = None
    models: str | None = None
    seeds: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    config_files: tuple[str, ...] = ()
    runs_dir: str = "runs"
    runs: tuple[str, ...] = ()
    jobs: int | None = None
    address: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    out: str | None = None
    original_features: bool = False

    @property
    def changed(self) -> dict[str, Any]:
        """Options that change results; where data lie and what is written is left out."""
        return {key: value for key, value in self.options.items() if key not in NO_EFFECT}

    @property
    def file_values(self) -> dict[str, Any]:
        """Values of the configuration files that change results and that no option replaces."""
        found = {key: value for file in self.config_files for key, value in read_yaml(Path(file)).items()}
        return {key: value for key, value in found.items() if key not in NO_EFFECT | self.options.keys()}


@dataclass(frozen=True)
class PlannedRow:
    """A row and its runs; a row that is not run has a reason instead of runs."""

    row: PaperRow
    specs: tuple[RunSpec, ...] = ()
    why: tuple[State, str] | None = None

    def empty(self) -> RowRuns:
        """Return the row without finished runs."""
        return RowRuns(self.row, len(self.specs), why=self.why)


def report_progress(line: str) -> None:
    """Print a line of progress to stderr."""
    print_line(line, sys.stderr)


def plan_rows(table: PaperTable, dataset: str, request: Request) -> list[PlannedRow]:
    """Return every row of a table with its runs.

    Raises:
        UserError: For an unknown model of a file of the user, an unknown row, or a bad option.
    """
    chosen = _chosen(table, request.models)
    planned = []
    for row in table.rows:
        why = _why_not_run(table, row, dataset, request, chosen)
        planned.append(PlannedRow(row, () if why else _specs(table, row, dataset, request), why))
    if all(one.why for one in planned):
        raise UserError(_nothing_to_run(table, dataset, planned))
    return planned


def _nothing_to_run(table: PaperTable, dataset: str, planned: Sequence[PlannedRow]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in planned:
        if one.why and one.why[0] != "not asked":
            reasons.setdefault(one.why, []).append(one.row.label)
    told = [f"{', '.join(labels)}: {state}: {reason}" for (state, reason), labels in reasons.items()]
    skipped = any(state == "skipped" for state, _ in reasons)
    fix = "; --original_features runs skipped rows, on data with the paper's own features" if skipped else ""
    return f"{table.file}: no row can be run on {dataset}: {'; '.join(told)}{fix}"


def _chosen(table: PaperTable, models: str | None) -> set[str] | None:
    if models is None:
        return None
    known = dict.fromkeys(name for row in table.rows for name in (row.label, row.model))
    asked = [name.strip() for name in models.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known) or f"; the rows are {', '.join(row.label for row in table.rows)}"
            raise UserError(f"command line: --models={name}: no row of {table.name} has this name{hint}")
    if not asked:
        raise UserError("command line: --models=: name rows or models, separated by commas")
    # A label names one row, even if it is the model of others too.
    labels = {row.label for row in table.rows} & {*asked}
    return labels | {row.label for row in table.rows if row.model in {*asked} - labels}


def _why_not_run(
    table: PaperTable, row: PaperRow, dataset: str, request: Request, chosen: set[str] | None
) -> tuple[State, str] | None:
    if chosen is not None and row.label not in chosen:
        return "not asked", ""
    if not table.shipped:
        check_stored_name(row.model, f"{table.file}: {row.label}")
        try:
            check_model_name(row.model)
        except UserError as error:
            raise UserError(f"{table.file}: row {row.label}: model={row.model}: {error}") from None
    elif row.model not in model_names():
        return "not available", f"this version has no model {row.model}"
    if dataset in row.skip and not request.original_features:
        return "skipped", row.skip[dataset]
    return None


def _specs(table: PaperTable, row: PaperRow, dataset: str, request: Request) -> tuple[RunSpec, ...]:
    """Return the runs of a row: one per seed, or a single run where no seed changes the result."""
    setting = row.settings.get(dataset)
    stated = {**table.options, **row.options, **(setting.options if setting else {})}
    _check_options(table, row, dataset, request, stated)
    seeds = request.seeds or str(row.seeds or table.seeds)
    merged = {**stated, **request.options}
    study = Study(dataset, seeds, merged, request.config_files, request.runs_dir)
    return tuple(study.specs(row.model, {}, row.label))


def _check_options(
    table: PaperTable, row: PaperRow, dataset: str, request: Request, stated: Mapping[str, Any]
) -> None:
    """Check the options of a row, so that an error names the file and the row."""
    try:
        config = Config(row.model, dataset, request.config_files, stated, request.options)
    except UserError as error:
        prefix, text = "config_dict: ", str(error)
        if not text.startswith(prefix):
            raise
        raise UserError(f"{table.file}: row {row.label}: {text.removeprefix(prefix)}") from None
    computed = config.tested_metrics()
    for metric in table.metrics:
        if metric not in computed:
            hint = did_you_mean(metric, computed) or f"; a run has {', '.join(computed)}"
            raise UserError(
                f"{table.file}: metrics: {metric!r} is not computed for row {row.label}{hint}; set topk, "
                "metrics and cold_start in the options"
            )


# ---- a dry run


def print_plan(planned: Sequence[PlannedRow], dataset: str, request: Request) -> None:
    """Print the runs of a table with their state and an estimate of their time; nothing is started.

    The estimate of a run is the mean time of the finished runs of the same model on this dataset.
    """
    specs = [spec for one in planned for spec in one.specs]
    stored = stored_runs(specs, runs_dir=request.runs_dir, also=request.runs)
    known = _seconds_by_model(dataset, request)
    left, unknown, counts = 0.0, dict[str, None](), {"finished": 0, "to continue": 0, "to start": 0}
    for one in planned:
        if one.why and one.why[0] != "not asked":
            print_line(f"{one.row.label}: {one.why[0]}: {one.why[1]}")
    for number, (spec, run) in enumerate(zip(specs, stored, strict=True)):
        if (first := specs.index(spec)) < number:
            print_line(f"{spec.name}: the run of {specs[first].name}")
            continue
        done = run is not None and run.finished
        state = "finished" if done else "to start" if run is None else "to continue"
        counts[state] += 1
        seconds = known.get(spec.model)
        if not done:
            left += seconds or 0.0
            unknown |= dict.fromkeys([spec.model] if seconds is None else [])
        estimate = "" if done else f"  {_duration(seconds)}"
        print_line(f"{spec.name}: {state}{f' {run.path}' if run else ''}{estimate}")
    told = ", ".join(f"{n} {state}" for state, n in counts.items())
    total = _total(left, unknown, request.jobs)
    print_line(f"{sum(counts.values())} runs: {told}; estimate of what is left: {total}")


def _total(left: float, unknown: Mapping[str, None], jobs: int | None) -> str:
    text = _duration(left) if left or not unknown else "unknown"
    if left and (jobs or 1) > 1:
        text += f" of computing, {_duration(left / (jobs or 1))} with --jobs={jobs}"
    if unknown:
        text += f" (no finished run yet of {', '.join(unknown)})"
    return text


def _duration(seconds: float | None) -> str:
    """Return a time in words.

    >>> _duration(75.0), _duration(5400.0), _duration(7.0), _duration(None)
    ('1 min', '1.5 h', '7 s', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _seconds_by_model(dataset: str, request: Request) -> dict[str, float]:
    folders = [Path(request.runs_dir) / dataset, *map(Path, request.runs)]
    patterns = ("config.yaml", "*/config.yaml", "*/*/config.yaml")
    runs = {
        run.path.resolve(): run
        for folder in folders
        for group in folders_by_hash(folder, silent, *patterns).values()
        for run in group
    }
    times: dict[str, list[float]] = {}
    for run in runs.values():
        try:
            results = run.read_results()
        except UserError:
            continue  # unfinished or damaged
        if results["dataset"] == dataset:
            times.setdefault(results["model"], []).append(results["n_epochs"] * results["seconds_per_epoch"])
    return {model: fmean(values) for model, values in times.items()}


def with_runs(planned: PlannedRow, results: Sequence[Mapping[str, Any]], **found: Any) -> RowRuns:
    """Return a row with what its runs have given so far."""
    return replace(planned.empty(), results=results, **found)
