"""Commands about several runs of one question: tables of models, variants and values, and searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recbole_siger.cli.check import check_models, check_run
from recbole_siger.cli.command import Command, Opt, option, options_of
from recbole_siger.cli.common import (
    config_files,
    dataset,
    given,
    jobs_of,
    keys_of_search,
    keys_of_study,
    model,
)
from recbole_siger.cli.declared import option_rows, read_dataclass, shipped_files
from recbole_siger.errors import UserError
from recbole_siger.options.command import files_of

__all__ = ["COMMANDS"]

KEYS_NOTE = (
    "Any key of the configuration is an option too and is set for every run; see `recbole-siger run --help`."
)
MODELS = "Models, separated by commas; the first is tested against the others."
SET = "Option of one model, stronger than all others; may be repeated."
FORMATS = "Files to write: .md, .tex, .csv, .json"

# Types, choices and defaults are those of the dataclasses.
_MEANINGS = {
    "stat": "Paired test of the first row against each other row; `none` for no test.",
    "correct": "Correction of the p-values over the rows.",
    "over": "What is paired: users, each with the mean over seeds, or seeds.",
    "allow_mixed": "Whether runs of different protocols may share the table, marked and untested.",
    "columns": "Metrics, separated by commas; by default Recall and NDCG at every cut-off.",
    "seeds": "How many seeds, counted up from the key `seed`, or a list such as 2020,2021.",
    "runs_dir": "Finished runs are looked for below <runs_dir>/<dataset>, and new runs are written there.",
    "jobs": "Runs at a time.",
}
_OF_TABLE = ("allow_mixed", "columns")
_OF_TEST = ("stat", "correct", "over")


def _described(module: str, cls: str, *names: str) -> list[Opt]:
    typed = read_dataclass(module, cls)
    return options_of([replace(typed[name], meaning=_MEANINGS[name]) for name in names])


def _study_options() -> list[Opt]:
    return [
        dataset(),
        *_described("studies.compare", "Study", "seeds", "runs_dir", "jobs"),
        config_files("YAML files of options of every run, separated by blanks."),
    ]


def _table_options(formats: str, *names: str) -> list[Opt]:
    out = option("out", formats, metavar="FILE", repeated=True)
    return [*_described("report.comparison", "TableParams", *names, *_OF_TABLE), out]


def _table(given_values: dict[str, Any]) -> Any:
    """Remove the fields of ``TableParams`` from the values of a command and return them."""
    from recbole_siger.report.comparison import table_params

    values = {name: given_values.pop(name) for name in (*_OF_TEST, *_OF_TABLE) if name in given_values}
    if "columns" in values:
        values["columns"] = values["columns"].split(",")
    return table_params(values)


def _study(values: dict[str, Any], keys: dict[str, str]) -> Any:
    """Return what all runs of a table have in common."""
    from recbole_siger.studies.compare import Study

    named = {key: values[key] for key in ("seeds", "runs_dir") if key in values}
    jobs = jobs_of(values.get("jobs", "1"))
    files = tuple(files_of(values.get("config_files")))
    return Study(values["dataset"], options=keys, files=files, jobs=jobs, **named)


def _needed(values: dict[str, Any], command: str, *names: str) -> list[str]:
    """Remove the required options of a command from its values and return them."""
    for name in names:
        if not values.get(name):
            raise UserError(
                f"command line: {command} requires --{name}; see `recbole-siger {command} --help`"
            )
    return [values.pop(name) for name in names]


def _check(models: str, values: dict[str, Any], keys: dict[str, str]) -> None:
    if not values.get("dataset"):
        raise UserError("command line: --dataset=NAME is missing")
    check_models(models, values["dataset"], files_of(values.get("config_files")), keys)


# ---- compare


def compare_command() -> Command:
    """Return the command ``compare``."""
    return Command(
        "compare",
        _compare,
        [
            option("models", MODELS, metavar="NAME,NAME"),
            *_study_options(),
            option(
                "runs", "Run folders to compare instead; nothing is trained.", metavar="DIR", repeated=True
            ),
            option("set", SET, metavar="MODEL.key=value", repeated=True),
            option(
                "model_config", "YAML file {model: {key: value}}, or folder of MODEL.yaml.", metavar="FILE"
            ),
            *_table_options(f"{FORMATS}; NAME.{{md,tex}} names several.", *_OF_TEST),
        ],
        usage="--models=NAME,NAME --dataset=NAME [--key=value ...] | --runs RUN_DIR RUN_DIR ...",
        summary="Print a table of models, the first tested against the others. Missing runs are started.",
        example="recbole-siger compare --models=SIGER,LightGCN --dataset=ml-100k --seeds=5 --out=table.md",
        keys=True,
        sections=keys_of_study,
        note=KEYS_NOTE,
    )


def _compare(
    runs: tuple[str, ...],
    set: tuple[str, ...],
    out: tuple[str, ...],
    model_config: str | None,
    keys: dict[str, str],
    **options: Any,
) -> int:
    values = given(**options)
    if runs:
        return _compare_runs(runs, set, out, {**values, **given(model_config=model_config), **keys})
    (models,) = _needed(values, "compare", "models")
    _check(models, values, keys)
    from recbole_siger.studies.compare import compare_models

    params = _table(values)
    study = _study(values, keys)
    return compare_models(models, study, params, model_options=set, model_file=model_config, out=out)


def _compare_runs(
    runs: tuple[str, ...], pairs: tuple[str, ...], out: tuple[str, ...], values: dict[str, Any]
) -> int:
    from recbole_siger.studies.compare import compare_runs

    params = _table(values)
    if values or pairs:
        raise UserError(f"command line: --{next(iter(values), 'set')} starts runs, --runs does not; keep one")
    return compare_runs(runs, params, out=out)


# ---- ablate, sweep


def ablate_command() -> Command:
    """Return the command ``ablate``."""
    return Command(
        "ablate",
        _ablate,
        [model(), *_study_options(), *_table_options(f"{FORMATS}.", *_OF_TEST)],
        usage="--model=NAME --dataset=NAME [--key=value ...]",
        summary="Print one table of a model's component variants and one of its modalities.",
        example="recbole-siger ablate --model=SIGER --dataset=ml-100k --seeds=3",
        keys=True,
        sections=keys_of_study,
        note=KEYS_NOTE,
    )


def _refuse(keys: dict[str, str], command: str, *names: str) -> None:
    for name in ("runs", "set", *names):
        if name in keys:
            raise UserError(f"command line: {command} has no option --{name}")


def _ablate(out: tuple[str, ...], keys: dict[str, str], **options: Any) -> int:
    values = given(**options)
    _refuse(keys, "ablate")
    (name,) = _needed(values, "ablate", "model")
    _check(name, values, keys)
    from recbole_siger.studies.ablate import ablate_model

    params = _table(values)
    return ablate_model(name, _study(values, keys), params, out=out)


def sweep_command() -> Command:
    """Return the command ``sweep``."""
    return Command(
        "sweep",
        _sweep,
        [
            model(),
            option("key", "Option that is varied.", metavar="KEY"),
            option("values", "Values of the option, separated by commas.", metavar="VALUE,VALUE"),
            *_study_options(),
            *_table_options(f"{FORMATS}, and figures: .png, .svg, .pdf."),
        ],
        usage="--model=NAME --dataset=NAME --key=KEY --values=VALUE,VALUE [--key=value ...]",
        summary="Print a table of one option over several values.",
        example="recbole-siger sweep --model=SIGER --dataset=ml-100k --key=n_co_neighbors --values=2,3,5",
        keys=True,
        sections=keys_of_study,
        note=KEYS_NOTE,
    )


def _sweep(out: tuple[str, ...], keys: dict[str, str], **options: Any) -> int:
    values = given(**options)
    _refuse(keys, "sweep", *_OF_TEST)
    name, key, listed = _needed(values, "sweep", "model", "key", "values")
    _check(name, values, keys)
    from recbole_siger.studies.sweep import sweep_option

    params = _table(values)
    return sweep_option(name, key, listed, _study(values, keys), params, out=out)


# ---- tune


def tune_command() -> Command:
    """Return the command ``tune``."""
    space = "YAML file {key: [values]}; by default properties/search/<Model>.yaml."
    out = "Folder of the search; by default runs/<dataset>/tune-<Model>."
    rows = option_rows(shipped_files("tune.yaml"), read_dataclass("tuning.request", "SearchParams"))
    return Command(
        "tune",
        _tune,
        [
            model(),
            dataset(),
            *options_of(rows),
            option("set", "Values of one key to search; may be repeated.", metavar="KEY=V,V", repeated=True),
            option("space", space, metavar="FILE"),
            option("seeds", _MEANINGS["seeds"], default="1"),
            option("out", out, metavar="FOLDER"),
            option("resume", "Whether the search in the folder is continued.", kind="bool", default="False"),
            config_files(),
        ],
        usage="--model=NAME --dataset=NAME [--key=value ...]",
        summary="Search a model's hyper-parameters, choose on validation, and test the winner once.",
        example="recbole-siger tune --model=SIGER --dataset=ml-100k --search=random --num_samples=48",
        keys=True,
        sections=keys_of_search,
        note=KEYS_NOTE,
    )


def _tune(set: tuple[str, ...], keys: dict[str, str], **options: Any) -> None:
    values = given(**options)
    name, data = _needed(values, "tune", "model", "dataset")
    files = files_of(values.pop("config_files", None))
    check_run(name, data, files, keys)
    from recbole_siger.tuning.search import tune_model

    tune_model(
        name,
        data,
        files=files,
        options=keys,
        space_file=values.pop("space", None),
        space=set,
        seeds=values.pop("seeds", "1"),
        out=values.pop("out", None),
        resume=values.pop("resume", False),
        **values,
    )


# ---- cold-start


def cold_start_command() -> Command:
    """Return the command ``cold-start``."""
    kind = "What is cold; by default item, or the protocol of the key `cold_start`."
    out = "Folder of the results; by default runs/<dataset>/cold-start-<kind>."
    return Command(
        "cold-start",
        _cold_start,
        [
            option("models", MODELS, metavar="NAME,NAME"),
            *_study_options(),
            option("kind", kind, metavar="KIND", choices="item | item_few_shot | user"),
            option("set", SET, metavar="MODEL.key=value", repeated=True),
            option("out", out, metavar="FOLDER"),
        ],
        usage="--models=NAME,NAME --dataset=NAME [--key=value ...]",
        summary="Print results for cold items or users: a table and a bar chart. Missing runs are started.",
        example="recbole-siger cold-start --models=SIGER,LightGCN --dataset=ml-100k --kind=item",
        keys=True,
        sections=keys_of_study,
        note=KEYS_NOTE,
    )


def _cold_start(
    kind: str | None, out: str | None, set: tuple[str, ...], keys: dict[str, str], **options: Any
) -> int:
    values = given(**options)
    (models,) = _needed(values, "cold-start", "models")
    _check(models, values, keys)
    from recbole_siger.studies.cold_start import cold_start_report

    return cold_start_report(models, _study(values, keys), model_options=set, kind=kind, out=out)


COMMANDS: dict[str, Callable[[], Command]] = {
    "compare": compare_command,
    "ablate": ablate_command,
    "sweep": sweep_command,
    "tune": tune_command,
    "cold-start": cold_start_command,
}
