"""Compare models on cold items or cold users: a table, and the bars of SIGER's Figure 3."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from recbole_siger.common.files import write_text
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.registry import short_names
from recbole_siger.report.comparison import Entry, protocol_difference
from recbole_siger.report.figures import check_matplotlib, draw_bars, metric_label, save_figure
from recbole_siger.studies.compare import Study, options_of_models

__all__ = ["cold_start_report"]

Results = Sequence[Mapping[str, Any]]
"""What ``results.json`` of one model's runs holds, one a seed."""

_GROUPS = {"": "all", "[cold]": "cold", "[warm]": "warm"}


def cold_start_report(
    models: str,
    study: Study,
    *,
    kind: str | None = None,
    out: str | Path | None = None,
    model_options: Sequence[str] = (),
) -> int:
    """Finish the runs of models under one cold-start protocol; write ``cold_start.{md,csv,png,svg}``.

    Args:
        models: Names, separated by commas.
        study: Dataset, seeds and options of every run.
        kind: Short for ``cold_start: {kind: ...}``; by default what the options say, else ``item``.
        out: Folder; by default ``<runs_dir>/<dataset>/cold-start-<kind>``.
        model_options: ``MODEL.key=value``, stronger than the options of every run.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input, before anything is trained.
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"command line: --models={models}: name each model once, and at least one")
    if "run_dir" in study.options:
        raise UserError("command line: --run_dir: each run gets its own folder; use --runs_dir")
    study = _asking_for(kind, names[0], study)
    own, labels = options_of_models(names, model_options, None), short_names(names)
    asked = Config(names[0], study.dataset, study.files, command_line=dict(study.options)).cold_start
    assert asked is not None
    entries = study.finish([(labels[name], study.specs(name, own[name])) for name in names])
    folder = Path(out or Path(study.runs_dir) / study.dataset / f"cold-start-{asked.kind}")
    _write(folder, entries)
    return int(any(entry.failures for entry in entries))


def _asking_for(kind: str | None, model: str, study: Study) -> Study:
    """Return the study with a cold-start protocol in its options."""
    if kind is not None and "cold_start" in study.options:
        raise UserError("command line: --kind and --cold_start say the same; keep one")
    given = Config(model, study.dataset, study.files, command_line=dict(study.options)).cold_start
    if kind is None and given is not None:
        return study
    return replace(study, options={**study.options, "cold_start": f"{{kind: {kind or 'item'}}}"})


# ---- what is written


def _write(folder: Path, entries: Sequence[Entry]) -> None:
    results = {entry.label: [run.read_results() for run in entry.runs] for entry in entries if entry.runs}
    if not results:
        raise UserError("; ".join(reason for entry in entries for reason in entry.failures))
    _check_protocols(results)
    failures = [f"{entry.label}, {reason}" for entry in entries for reason in entry.failures]
    page = _markdown(results, failures)
    write_text(folder / "cold_start.csv", _csv(results))
    write_text(folder / "cold_start.md", page)
    print(page)
    written = [folder / "cold_start.md", folder / "cold_start.csv"]
    try:
        check_matplotlib()
    except UserError as error:
        print(f"no figure: {error}", file=sys.stderr)
    else:
        figure = _figure(results)
        for name in ("cold_start.png", "cold_start.svg"):
            save_figure(figure, folder / name)
            written.append(folder / name)
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)


def _check_protocols(results: Mapping[str, Results]) -> None:
    """Refuse models under different protocols; where the seed draws the split, each seed has an id."""
    first, ids = next(iter(results)), {m: {one["protocol_id"] for one in runs} for m, runs in results.items()}
    for model in results:
        if ids[model] != ids[first]:
            differs = protocol_difference(results[first], results[model])
            raise UserError(f"{first} and {model} were evaluated under different protocols ({differs})")


def _scores_cold(runs: Results) -> str:
    return {True: "yes", False: "no", None: ""}[runs[0].get("scores_cold_items")]


def _csv(results: Mapping[str, Results]) -> str:
    """Tabulate every test metric with every digit, a row a run."""
    names = list(dict.fromkeys(name for runs in results.values() for one in runs for name in one["test"]))
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["model", "scores_cold_items", "seed", "best_epoch", "protocol_id", *names])
    for model, runs in results.items():
        for one in runs:
            facts = [_scores_cold(runs), one["seed"], one["best_epoch"], one["protocol_id"]]
            table.writerow([model, *facts, *(one["test"].get(name, "") for name in names)])
    return stream.getvalue()


def _mean(runs: Results, part: str, name: str) -> float | None:
    values = [one[part][name] for one in runs if name in one[part]]
    return fmean(values) if values else None


def _spread(runs: Results, name: str) -> float | None:
    values = [one["test"][name] for one in runs if name in one["test"]]
    return stdev(values) if len(values) > 1 else None


def _cell(runs: Results, part: str, name: str) -> str:
    mean, spread = _mean(runs, part, name), _spread(runs, name) if part == "test" else None
    return "" if mean is None else f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _markdown(results: Mapping[str, Results], failures: Sequence[str]) -> str:
    """Tabulate the metrics at the largest cut-off, and say what was asked."""
    runs = next(iter(results.values()))
    first, facts = runs[0], runs[0]["protocol_facts"]
    names = [name for name in first["test"] if name.partition("[")[0].endswith(f"@{max(facts['topk'])}")]
    if facts["cold_start"]["kind"] == "item":
        names = [name for name in names if "[" not in name]  # every item that is tested is cold
    asked = ", ".join(f"{key} {value}" for key, value in facts["cold_start"].items() if key != "candidates")
    seeds = ", ".join(sorted({str(one["seed"]) for of_model in results.values() for one in of_model}))
    ids = ", ".join(sorted({one["protocol_id"] for of_model in results.values() for one in of_model}))
    lines = [
        f"# Cold start on {first['dataset']}",
        "",
        f"Test of the best validation epoch. {asked}; candidates: {first['candidates']}; seeds: {seeds}; "
        f"protocol_id {ids}.",
        "",
        f"| Model | scores cold items | {' | '.join(names)} | best epoch |",
        f"|---|---|{'---|' * len(names)}---|",
    ]
    for model, of_model in results.items():
        cells = [_cell(of_model, "test", name) for name in names]
        epochs = ", ".join(str(one["best_epoch"]) for one in of_model)
        lines.append(f"| {model} | {_scores_cold(of_model)} | {' | '.join(cells)} | {epochs} |")
    lines.append(f"| chance | | {' | '.join(_cell(runs, 'chance', name) for name in names)} | |")
    if any(_scores_cold(of_model) == "no" for of_model in results.values()):
        lines += [
            "",
            "A model that does not score cold items places those without a training row by item order",
            "or by chance.",
        ]
    lines += ["", *(f"Failed: {line}" for line in failures)] if failures else []
    return "\n".join([*lines, ""])


def _figure(results: Mapping[str, Results]) -> Any:
    """Draw the models' bars: on cold items by metric, or one metric for all, cold and warm ones."""
    runs = next(iter(results.values()))
    first, rule = runs[0], runs[0]["protocol_facts"]["cold_start"]
    k = max(first["protocol_facts"]["topk"])
    metrics = [name for name in (f"recall@{k}", f"ndcg@{k}") if name in first["test"]]
    metrics = metrics or [next(iter(first["test"]))]
    if rule["kind"] == "item":
        names, groups, ylabel = metrics, [metric_label(name) for name in metrics], "test, cold items"
    else:
        names = [f"{metrics[0]}{group}" for group in _GROUPS if f"{metrics[0]}{group}" in first["test"]]
        noun = "users" if rule["kind"] == "user" else "items"
        groups = [f"{_GROUPS[name.removeprefix(metrics[0])]} {noun}" for name in names]
        ylabel = f"{metric_label(metrics[0])}, test"
    series = {model: [_mean(one, "test", name) for name in names] for model, one in results.items()}
    spread = {model: [_spread(one, name) for name in names] for model, one in results.items()}
    series["chance"] = [_mean(runs, "chance", name) for name in names]
    return draw_bars(groups, series, ylabel, spread, f"{first['dataset']}, candidates: {first['candidates']}")
