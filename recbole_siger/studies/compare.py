"""Compare models: finish the runs of a table, put them side by side, and test the differences."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_siger.common.files import check_output
from recbole_siger.common.terminal import print_line
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.seeds import seed_list
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import short_name, short_names
from recbole_siger.report.comparison import (
    Comparison,
    Entry,
    TableParams,
    check_columns,
    check_sample_size,
    compare_entries,
)
from recbole_siger.report.grouping import group_runs, open_runs
from recbole_siger.report.protocols import check_protocols
from recbole_siger.report.tables import FORMATS, expand_names, print_tables, write_tables
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.campaign import (
    Failure,
    RunSpec,
    complete_runs,
    expected_results,
    one_seed_is_enough,
    tested_metrics,
)

__all__ = ["Study", "compare_models", "compare_runs", "entries_of_runs", "finish_tables", "options_of_models"]


_OF_STUDY = {"model": "--models", "dataset": "--dataset", "seed": "--seeds"}


@dataclass(frozen=True)
class Study:
    """The options that all runs of a table share.

    Attributes:
        dataset: Dataset name.
        seeds: As typed: a number of seeds, counted up from the key ``seed``, or a list of seeds.
        options: Configuration of every run, values or text as typed.
        files: Configuration files of every run.
        runs_dir: Folder in which run folders are looked for and made.
        jobs: Runs at a time.
    """

    dataset: str
    seeds: str = "1"
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    runs_dir: str = "runs"
    jobs: int = 1

    def seed_list(self, model: str) -> list[int]:
        """Return the seeds.

        Raises:
            UserError: If there is no seed, or a seed is repeated.
        """
        config = Config(model, self.dataset, self.files, command_line=dict(self.options))
        return seed_list(self.seeds, config.run.seed)

    def specs(self, model: str, options: Mapping[str, Any], label: str = "") -> list[RunSpec]:
        """Return the runs of one row: one run per seed, or a single run where no seed changes the result.

        Raises:
            UserError: If an option is the run folder, ``runs_dir`` is a file, there is no seed, or a seed is
                repeated.
        """
        merged = {**self.options, **options}
        config = Config(model, self.dataset, self.files, command_line=merged)
        config.refuse_run_dir("--runs_dir")
        check_output(Path(self.runs_dir, self.dataset, "a run"), "--runs_dir")
        seeds = seed_list(self.seeds, config.run.seed)
        merged.pop("seed", None)
        specs = [RunSpec(model, self.dataset, seed, merged, self.files, label) for seed in seeds]
        return specs[:1] if one_seed_is_enough(specs[0]) else specs

    def finish(
        self, wanted: Sequence[tuple[str, Sequence[RunSpec]]], params: TableParams, *, mixable: bool = True
    ) -> list[Entry]:
        """Finish the runs of each label, in order; progress goes to stderr.

        Args:
            wanted: The runs of each label.
            params: How the table will be made.
            mixable: Whether the command has the option ``--allow_mixed``.

        Raises:
            UserError: If a column is not a metric of every run, or the runs cannot share a table, before any
                run starts, or if every run failed for one reason.
        """
        if params.columns is not None:
            known = [tested_metrics(of_label[0]) for _, of_label in wanted]
            check_columns(
                params.columns, [name for name in known[0] if all(name in names for names in known)]
            )
        expected = {label: [expected_results(of_label[0])] for label, of_label in wanted}
        check_protocols(expected, allow_mixed=params.allow_mixed, mixable=mixable)
        specs = [spec for _, of_label in wanted for spec in of_label]
        outcomes = complete_runs(specs, runs_dir=self.runs_dir, jobs=self.jobs, report=_progress)
        reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Failure)}
        if len(reasons) == 1 and all(isinstance(outcome, Failure) for outcome in outcomes):
            raise UserError(f"no run finished: {reasons.pop()}")  # such as a missing dataset
        ended, entries = iter(outcomes), []
        for label, of_label in wanted:
            own = [next(ended) for _ in of_label]
            runs = tuple(run for run in own if isinstance(run, RunFolder))
            failures = tuple(f"seed {e.spec.seed}: {e.reason}" for e in own if isinstance(e, Failure))
            entries.append(Entry(label, runs, failures))
        return entries


def _progress(line: str) -> None:
    print_line(line, sys.stderr)


def compare_models(
    models: str,
    study: Study,
    params: TableParams,
    *,
    model_options: Sequence[str] = (),
    model_file: str | None = None,
    out: Sequence[str] = (),
) -> int:
    """Print the comparison of models and write it to files; the first model is tested against the others.

    Args:
        models: Names, separated by commas.
        study: Dataset, seeds and options of every run.
        params: How the table is made.
        model_options: ``MODEL.key=value``, stronger than all other options.
        model_file: YAML file with ``{model: {key: value}}``, or a folder with ``<model>.yaml`` for each;
            stronger than the options of every run.
        out: File names; the suffix is the format.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input; before any run starts, except for differing protocols.
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    if len(set(names)) != len(names) or not names:
        raise UserError(f"--models={models}: name each model once, separated by commas")
    paths = expand_names(out, list(FORMATS))
    own, labels = options_of_models(names, model_options, model_file), short_names(names)
    if model_file:
        _check_file(model_file, names, study)
    wanted = [(labels[name], study.specs(name, own[name])) for name in names]
    if len(names) > 1 and params.over == "seeds":
        check_sample_size(max(len(specs) for _, specs in wanted), params, len(wanted) - 1)
    entries = study.finish(wanted, params)
    title = labels[names[0]]
    title = f"{title} and baselines on {study.dataset}" if len(names) > 1 else title
    return finish_tables([compare_entries(title, entries, params)], paths)


def options_of_models(
    names: Sequence[str], pairs: Sequence[str], file: str | None
) -> dict[str, dict[str, Any]]:
    """Return the options of each model alone; a file or a pair names a model in full or by its short name."""
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    full = {short: name for name, short in short_names(list(names)).items()}
    for named, values in (_read_options(names, Path(file)) if file else {}).items():
        model = full.get(named, named)
        if own.get(model):
            raise UserError(f"{file}: {named}: {model} is given twice; write its options in one place")
        if model not in own or not isinstance(values, dict):
            hint = did_you_mean(model, names) if model not in own else "; write `key: value` lines below it"
            raise UserError(f"{file}: {model}: expected options of {', '.join(names)}{hint}")
        if shared := next((key for key in values if key in _OF_STUDY), None):
            raise UserError(
                f"{file}: {named}: {shared}={values[shared]!r}: every row has the same {shared}; use "
                f"{_OF_STUDY[shared]}"
            )
        own[model] |= values
    typed = set()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        named, dot, option = key.rpartition(".")
        model = full.get(named, named)
        if not (equals and dot and option):
            raise UserError(f"--set {pair}: write --set MODEL.key=value")
        if model not in own:
            raise UserError(f"--set {pair}: {model!r} is not compared{did_you_mean(model, names)}")
        if option in _OF_STUDY:
            raise UserError(f"--set {pair}: every row has the same {option}; use {_OF_STUDY[option]}")
        if (model, option) in typed:
            raise UserError(f"command line: --set {key} is given twice; keep one")
        typed.add((model, option))
        own[model][option] = value
    return own


def _read_options(names: Sequence[str], path: Path) -> dict[str, Any]:
    if not path.is_dir():
        return read_yaml(path, "--model_config")
    files = {name: path / f"{short_name(name)}.yaml" for name in names}
    for file in files.values():
        if not file.is_file():  # an untuned model among tuned models must be a decision
            raise UserError(
                f"{file}: no such file; tune this model, or leave the file empty for its defaults"
            )
    return {name: read_yaml(file, "--model_config") for name, file in files.items()}


def _check_file(file: str, names: Sequence[str], study: Study) -> None:
    """Check the options of each model in a file, so that an error names the file."""
    for name, values in options_of_models(names, (), file).items():
        path = Path(file) / f"{short_name(name)}.yaml"
        source = path if Path(file).is_dir() else f"{file}: {name}"
        weaker = {key: value for key, value in study.options.items() if key not in values}
        try:
            Config(name, study.dataset, study.files, values, weaker)
        except UserError as error:
            raise UserError(str(error).replace("config_dict:", f"{source}:", 1)) from None


def compare_runs(runs: Sequence[str], params: TableParams, *, out: Sequence[str] = ()) -> int:
    """Print the comparison of existing run folders; no run starts.

    Runs whose configurations differ only in the seed are one row. The row of the first folder is tested
    against the others.

    Returns:
        0.

    Raises:
        UserError: If a folder is not a finished run, or the runs cannot share a table.
    """
    paths = expand_names(out, list(FORMATS))
    entries = entries_of_runs(runs)
    if len(entries) > 1 and params.over == "seeds":
        check_sample_size(max(len(entry.runs) for entry in entries), params, len(entries) - 1)
    title = f"{entries[0].label} and others" if len(entries) > 1 else entries[0].label
    return finish_tables([compare_entries(title, entries, params)], paths)


def entries_of_runs(runs: Sequence[str]) -> list[Entry]:
    """Group finished run folders as :func:`~recbole_siger.report.grouping.group_runs` does."""
    opened = open_runs(runs)
    for run in opened:
        run.read_results()
    entries = group_runs(opened)
    for entry in entries:
        seeds: dict[Any, Path] = {}
        for run in entry.runs:
            twin = seeds.setdefault(run.read_config().get("seed"), run.path)
            if twin != run.path:
                raise UserError(f"{run.path}: has configuration and seed of {twin}; leave one of them out")
    return entries


def finish_tables(tables: Sequence[Comparison], paths: Sequence[Path]) -> int:
    """Print tables, write them, and return 1 if a row failed, else 0."""
    write_tables(tables, paths)
    print_tables(tables)
    return int(any(row.failure for table in tables for row in table.rows))
