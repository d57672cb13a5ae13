"""The command line: arguments only, no logic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.arguments import one_run_folder, read_options, single_values
from recbole_siger.errors import UserError

__all__ = ["main"]

USAGE = """\
recbole-siger COMMAND

  run --model=SIGER --dataset=ml-100k [--config_files "a.yaml b.yaml"] [--key=value ...] [--dry_run]
                        train, select on validation, test, and leave a run folder
  estimate --model=SIGER --dataset=ml-100k [any option of run]
                        memory that a run will need, before it trains
  resume RUN_DIR        continue an interrupted run
  evaluate RUN_DIR      test a run again, in a fresh process
                        both take --data_path=FOLDER where the data have moved
  config MODEL [--dataset=NAME]
                        every option of a model: default, range and meaning
  models                every model name
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
  report RUN_DIR ... [--out=report.html] [--vectors]
                        one offline page of runs; `report curves RUN_DIR`, `report vectors RUN_DIR` and
                        `report overlap --dataset=NAME` draw one picture, --out=NAME.pdf
  import-mmrec DIR --name=NAME [--feature MODALITY=FILE ...] [--data_path=dataset] [--overwrite]
                        turn a folder in MMRec's layout into a dataset
  cold-start --models=SIGER,LightGCN,BPR --dataset=NAME [--kind=item] [--out=DIR] [--key=value ...]
                        results for cold items or users: table and bar chart; finished runs are used again
  audit --dataset=NAME [--run=DIR] [--json] [--key=value ...]
                        hold a dataset, a model's graphs and a run against what an honest evaluation needs
  cache ls|clear [--cache_dir=FOLDER]
                        list or delete the graphs that earlier runs have built
  doctor [--json]       check this installation
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for a failed check, 2 for bad input, or 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] == "help" or {"-h", "--help"} & set(words):
        print(USAGE, end="")
        return 0 if words else 2
    command = _COMMANDS.get(words[0])
    try:
        if command is None:
            from recbole_siger.params import did_you_mean

            raise UserError(
                f"unknown command {words[0]!r}{did_you_mean(words[0], _COMMANDS)}; see `recbole-siger --help`"
            )
        return command(words[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; `recbole-siger resume RUN_DIR` continues a run, the command itself a table",
            file=sys.stderr,
        )
        return 130


def _run(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("dry_run",))
    if positional:
        raise UserError(f"command line: cannot place {positional[0]!r}; write --key=value")
    values = single_values(found)
    dry_run = values.pop("dry_run", "False").lower() in ("true", "1", "yes")
    files = values.pop("config_files", "").split()
    model, dataset = values.pop("model", None), values.pop("dataset", None)
    if dry_run:
        from recbole_siger.describe import print_effective

        print_effective(model, dataset, files, values)
        return 0
    from recbole_siger.quick_start import run_experiment

    run_experiment(model, dataset, files, command_line=values)
    return 0


def _estimate(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    if positional:
        raise UserError(f"command line: cannot place {positional[0]!r}; write --key=value")
    values = single_values(found)
    files = values.pop("config_files", "").split()
    from recbole_siger.estimate import print_estimate

    print_estimate(values.pop("model", None), values.pop("dataset", None), files, values)
    return 0


def _resume(words: Sequence[str]) -> int:
    from recbole_siger.quick_start import resume_run

    resume_run(*one_run_folder(words, "resume"))
    return 0


def _evaluate(words: Sequence[str]) -> int:
    run_dir, data_path = one_run_folder(words, "evaluate")
    from recbole_siger.quick_start import evaluate_run, format_metrics

    print(f"test   {format_metrics(evaluate_run(run_dir, data_path))}")
    return 0


def _config(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    values = single_values(found)
    if len(positional) != 1 or set(values) - {"dataset"}:
        raise UserError("command line: write `recbole-siger config MODEL [--dataset=NAME]`")
    from recbole_siger.describe import print_options

    print_options(positional[0], values.get("dataset"))
    return 0


def _models(words: Sequence[str]) -> int:
    if words:
        raise UserError("command line: write `recbole-siger models`")
    from recbole_siger.registry import MODELS, model_names

    for name in model_names():
        print(f"{name:20} {'recbole_siger' if name in MODELS else 'recbole'}")
    return 0


def _table_options(
    words: Sequence[str],
) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Any]]:
    """Return options given once, lists, and what makes a ``TableParams``."""
    positional, found = read_options(words, flags=("allow_mixed",), lists=("out", "runs"))
    if positional:
        raise UserError(f"command line: cannot place {positional[0]!r}; write --key=value")
    lists = {name: [value for key, value in found if key == name] for name in ("out", "runs", "set")}
    values = single_values([entry for entry in found if entry[0] not in lists])
    table: dict[str, Any] = {key: values.pop(key) for key in ("stat", "correct", "over") if key in values}
    table["allow_mixed"] = values.pop("allow_mixed", "False").lower() in ("true", "1", "yes")
    if "columns" in values:
        table["columns"] = values.pop("columns").split(",")
    return values, lists, table


def _study(values: dict[str, str]) -> Any:
    """Take what all runs of a table have in common; what is left are options of every run."""
    from recbole_siger.compare import Study

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
    from recbole_siger.compare import compare_models, compare_runs
    from recbole_siger.comparison import table_params

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
    from recbole_siger.ablate import ablate_model
    from recbole_siger.comparison import table_params

    (model,) = _needed(values, "ablate", "model")
    return ablate_model(model, _study(values), table_params(table), out=lists["out"])


def _sweep(words: Sequence[str]) -> int:
    values, lists, table = _table_options(words)
    _refuse(lists, "sweep", "runs", "set")
    from recbole_siger.ablate import sweep_option
    from recbole_siger.comparison import table_params

    model, key, listed = _needed(values, "sweep", "model", "key", "values")
    return sweep_option(model, key, listed, _study(values), table_params(table), out=lists["out"])


def _refuse(lists: dict[str, list[str]], command: str, *names: str) -> None:
    for name in names:
        if lists[name]:
            raise UserError(f"command line: {command} takes no --{name}")


def _report(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("vectors",), lists=("out",))
    out = [value for key, value in found if key == "out"]
    values = single_values([entry for entry in found if entry[0] != "out"])
    kind, rest = (positional[0], positional[1:]) if positional else ("", [])
    usage = "`recbole-siger report RUN_DIR ... [--out=report.html]`; see `recbole-siger --help`"
    from recbole_siger.report import overlap, runs

    if kind == "overlap" and not rest:
        (dataset,) = _needed(values, "report overlap", "dataset")
        files = values.pop("config_files", "").split()
        overlap.report_overlap(dataset, values, files, out)
    elif kind in ("curves", "vectors"):
        if len(rest) != 1 or not out or set(values) - ({"data_path"} if kind == "vectors" else set()):
            raise UserError(f"command line: write `recbole-siger report {kind} RUN_DIR --out=NAME.pdf`")
        if kind == "curves":
            runs.report_curves(rest[0], out)
        else:
            runs.report_vectors(rest[0], out, values.get("data_path"))
    elif not positional or len(out) > 1 or set(values) - {"vectors", "data_path"}:
        raise UserError(f"command line: write {usage}")
    else:
        vectors = values.get("vectors", "False").lower() == "true"
        page = out[0] if out else "report.html"
        runs.report_page(positional, page, vectors=vectors, data_path=values.get("data_path"))
    return 0


def _import_mmrec(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("overwrite",))
    features = {}
    for _, pair in (entry for entry in found if entry[0] == "feature"):
        modality, equals, file = pair.partition("=")
        if not equals or not modality or not file:
            raise UserError(f"command line: --feature {pair!r}; write --feature MODALITY=FILE")
        if modality in features:
            raise UserError(f"command line: --feature {modality} is given twice; keep one")
        features[modality] = Path(file)
    values = single_values([entry for entry in found if entry[0] != "feature"])
    if len(positional) != 1 or "name" not in values or set(values) - {"name", "data_path", "overwrite"}:
        raise UserError(
            "command line: write `recbole-siger import-mmrec DIR --name=NAME [--feature MODALITY=FILE]`"
        )
    from recbole_siger.data.mmrec import import_mmrec

    import_mmrec(
        Path(positional[0]),
        values["name"],
        data_path=Path(values.get("data_path", "dataset")),
        features=features,
        overwrite=values.get("overwrite", "False").lower() == "true",
        report=print,
    )
    return 0


def _cold_start(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    values = single_values(found)
    if positional or not {"models", "dataset"} <= set(values):
        raise UserError("command line: write `recbole-siger cold-start --models=A,B --dataset=NAME`")
    from recbole_siger.cold_start_report import cold_start_report

    cold_start_report(
        [name for name in values.pop("models").split(",") if name],
        values.pop("dataset"),
        kind=values.pop("kind", None),
        out=values.pop("out", None),
        files=values.pop("config_files", "").split(),
        values=values,
    )
    return 0


def _audit(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("json",))
    values = single_values(found)
    if positional:
        raise UserError("command line: write `recbole-siger audit --dataset=NAME [--run=DIR] [--json]`")
    as_json = values.pop("json", "False").lower() == "true"
    dataset, run = values.pop("dataset", None), values.pop("run", None)
    from recbole_siger.audit import print_audit

    return print_audit(dataset, run, values, as_json=as_json)


def _cache(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    values = single_values(found)
    if positional not in (["ls"], ["clear"]) or set(values) - {"cache_dir"}:
        raise UserError("command line: write `recbole-siger cache ls|clear [--cache_dir=FOLDER]`")
    from recbole_siger.graph_cache import GraphCache

    graphs = GraphCache(values.get("cache_dir"))
    for line in graphs.report() if positional == ["ls"] else [graphs.clear()]:
        print(line)
    return 0


def _doctor(words: Sequence[str]) -> int:
    if set(words) - {"--json"}:
        raise UserError("command line: write `recbole-siger doctor [--json]`")
    from recbole_siger import doctor

    return doctor.main(as_json=bool(words))


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "estimate": _estimate,
    "resume": _resume,
    "evaluate": _evaluate,
    "config": _config,
    "models": _models,
    "compare": _compare,
    "ablate": _ablate,
    "sweep": _sweep,
    "report": _report,
    "import-mmrec": _import_mmrec,
    "cold-start": _cold_start,
    "audit": _audit,
    "cache": _cache,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
