"""Commands about several runs: tables, figures, checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recbole_siger.cli.arguments import read_keys, read_options, single_values
from recbole_siger.errors import UserError

__all__ = ["COMMANDS", "USAGE"]

USAGE = """\
  compare --models=SIGER,LightGCN,EASE --dataset=ml-100k [--seeds=5] [--key=value ...]
                        table of models, the first tested against the others; starts missing runs
                        --stat=wilcoxon|t-test --correct=holm|none --over=users|seeds --columns=recall@20
                        --set=MODEL.key=value and --model_config=FILE for one model, --jobs, --runs_dir,
                        --allow_mixed, --out table.md table.tex table.csv table.json
  compare --runs RUN_DIR RUN_DIR ...
                        the same of runs that exist
  ablate --model=SIGER --dataset=ml-100k [--seeds=3] [as compare]
                        tables of a model's component and modality variants
  sweep --model=SIGER --dataset=ml-100k --key=n_co_neighbors --values=2,3,5 [--seeds=3] [as compare]
                        one option over several values; --out takes pictures too (.png, .svg, .pdf)
  tune --model=SIGER --dataset=ml-100k [--search=grid|random|bayes] [--num_samples=48] [--key=value ...]
                        search hyper-parameters with Ray, choose on validation, test the winner once
                        --set=key=value,value and --space=FILE instead of properties/search/<Model>.yaml,
                        --seeds=2020,2021 --metric=recall@20 --scheduler=asha|none --grace_epochs,
                        --reduction_factor, --cpus_per_trial, --gpus_per_trial, --max_concurrent,
                        --address=auto, --out=DIR, --resume
  report RUN_DIR ... [--out=report.html] [--vectors]
                        one offline page of runs; `report curves RUN_DIR`, `report vectors RUN_DIR` and
                        `report overlap --dataset=NAME` draw one picture, --out=NAME.pdf
  cold-start --models=SIGER,LightGCN,BPR --dataset=NAME [--kind=item] [--out=DIR] [as compare]
                        results for cold items or users: table and bar chart
  audit --dataset=NAME [--run=DIR] [--json] [--key=value ...]
                        hold a dataset, a model's graphs and a run against what an honest evaluation needs
"""


def _table_options(
    words: Sequence[str],
) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Any]]:
    """Return options given once, lists, and what makes a ``TableParams``."""
    found = read_keys(words, flags=("allow_mixed",), lists=("out", "runs"))
    lists = {name: [value for key, value in found if key == name] for name in ("out", "runs", "set")}
    values = single_values([entry for entry in found if entry[0] not in lists])
    table: dict[str, Any] = {key: values.pop(key) for key in ("stat", "correct", "over") if key in values}
    table["allow_mixed"] = values.pop("allow_mixed", "False").lower() in ("true", "1", "yes")
    if "columns" in values:
        table["columns"] = values.pop("columns").split(",")
    return values, lists, table


def _study(values: dict[str, str]) -> Any:
    """Take what all runs of a table have in common; what is left are options of every run."""
    from recbole_siger.studies.compare import Study

    dataset = values.pop("dataset", None)
    if not dataset:
        raise UserError("command line: --dataset=NAME is missing")
    named = {key: values.pop(key) for key in ("seeds", "runs_dir") if key in values}
    files = tuple(values.pop("config_files", "").split())
    jobs = values.pop("jobs", "1")
    if not jobs.isdecimal() or int(jobs) < 1:
        raise UserError(f"command line: --jobs={jobs}: expected a number in [1, inf)")
    return Study(dataset, options=values, files=files, jobs=int(jobs), **named)


def _needed(values: dict[str, str], command: str, *keys: str) -> list[str]:
    missing = [key for key in keys if not values.get(key)]
    if missing:
        raise UserError(f"command line: {command} needs --{missing[0]}; see `recbole-siger --help`")
    return [values.pop(key) for key in keys]


def _compare(words: Sequence[str]) -> int:
    values, lists, table = _table_options(words)
    from recbole_siger.report.comparison import table_params
    from recbole_siger.studies.compare import compare_models, compare_runs

    params = table_params(table)
    if lists["runs"]:
        if values or lists["set"]:
            raise UserError(
                f"command line: --{next(iter(values), 'set')} starts runs, --runs does not; keep one"
            )
        return compare_runs(lists["runs"], params, out=lists["out"])
    (models,) = _needed(values, "compare", "models")
    file = values.pop("model_config", None)
    study = _study(values)
    return compare_models(
        models, study, params, model_options=lists["set"], model_file=file, out=lists["out"]
    )


def _ablate(words: Sequence[str]) -> int:
    values, lists, table = _table_options(words)
    _refuse(lists, "ablate", "runs", "set")
    from recbole_siger.report.comparison import table_params
    from recbole_siger.studies.ablate import ablate_model

    (model,) = _needed(values, "ablate", "model")
    return ablate_model(model, _study(values), table_params(table), out=lists["out"])


def _refuse(lists: dict[str, list[str]], command: str, *names: str) -> None:
    for name in names:
        if lists[name]:
            raise UserError(f"command line: {command} takes no --{name}")


def _sweep(words: Sequence[str]) -> int:
    values, lists, table = _table_options(words)
    _refuse(lists, "sweep", "runs", "set")
    from recbole_siger.report.comparison import table_params
    from recbole_siger.studies.sweep import sweep_option

    model, key, listed = _needed(values, "sweep", "model", "key", "values")
    return sweep_option(model, key, listed, _study(values), table_params(table), out=lists["out"])


def _tune(words: Sequence[str]) -> int:
    found = read_keys(words, flags=("resume",))
    pairs = [value for key, value in found if key == "set"]
    values = single_values([entry for entry in found if entry[0] != "set"])
    model, dataset = _needed(values, "tune", "model", "dataset")
    from recbole_siger.tuning.search import SearchParams, tune_model

    resume = values.pop("resume", "False").lower() in ("true", "1", "yes")
    search = {key: values.pop(key) for key in SearchParams.__dataclass_fields__ if key in values}
    named = {key: values.pop(key, None) for key in ("out", "space")}
    files, seeds = values.pop("config_files", "").split(), values.pop("seeds", "1")
    tune_model(
        model,
        dataset,
        files=files,
        options=values,
        space_file=named["space"],
        space=pairs,
        seeds=seeds,
        out=named["out"],
        resume=resume,
        **search,
    )
    return 0


def _report(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("vectors",), lists=("out",))
    out = [value for key, value in found if key == "out"]
    values = single_values([entry for entry in found if entry[0] != "out"])
    kind, rest = (positional[0], positional[1:]) if positional else ("", [])
    usage = "`recbole-siger report RUN_DIR ... [--out=report.html]`; see `recbole-siger --help`"
    from recbole_siger.report import overlap, page

    if kind == "overlap" and not rest:
        (dataset,) = _needed(values, "report overlap", "dataset")
        files = values.pop("config_files", "").split()
        overlap.report_overlap(dataset, values, files, out)
    elif kind in ("curves", "vectors"):
        if len(rest) != 1 or not out or set(values) - ({"data_path"} if kind == "vectors" else set()):
            raise UserError(f"command line: write `recbole-siger report {kind} RUN_DIR --out=NAME.pdf`")
        if kind == "curves":
            page.report_curves(rest[0], out)
        else:
            page.report_vectors(rest[0], out, values.get("data_path"))
    elif not positional or len(out) > 1 or set(values) - {"vectors", "data_path"}:
        raise UserError(f"command line: write {usage}")
    else:
        vectors = values.get("vectors", "False").lower() == "true"
        file = out[0] if out else "report.html"
        page.report_page(positional, file, vectors=vectors, data_path=values.get("data_path"))
    return 0


def _cold_start(words: Sequence[str]) -> int:
    found = read_keys(words)
    pairs = [value for key, value in found if key == "set"]
    values = single_values([entry for entry in found if entry[0] != "set"])
    (models,) = _needed(values, "cold-start", "models")
    from recbole_siger.studies.cold_start import cold_start_report

    named = {key: values.pop(key, None) for key in ("kind", "out")}
    return cold_start_report(models, _study(values), model_options=pairs, **named)


def _audit(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("json",))
    values = single_values(found)
    if positional:
        raise UserError("command line: write `recbole-siger audit --dataset=NAME [--run=DIR] [--json]`")
    as_json = values.pop("json", "False").lower() == "true"
    dataset, run = values.pop("dataset", None), values.pop("run", None)
    from recbole_siger.audit.checks import print_audit

    return print_audit(dataset, run, values, as_json=as_json)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "compare": _compare,
    "ablate": _ablate,
    "sweep": _sweep,
    "tune": _tune,
    "report": _report,
    "cold-start": _cold_start,
    "audit": _audit,
}
