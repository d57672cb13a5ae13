"""Compare models on cold items or cold users: a table as ``compare`` has it, and SIGER's Figure 3."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from recbole_siger.common.files import check_output
from recbole_siger.common.terminal import print_line
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.registry import short_names
from recbole_siger.report.comparison import Comparison, Entry, Row, TableParams, compare_entries
from recbole_siger.report.figures import check_matplotlib, draw_bars, metric_label, save_figure
from recbole_siger.report.tables import print_tables, write_tables
from recbole_siger.studies.compare import Study, options_of_models

__all__ = ["cold_start_report"]

Results = Sequence[Mapping[str, Any]]
"""The content of ``results.json`` of one model's runs, one per seed."""

_FILES = ("cold_start.md", "cold_start.csv", "cold_start.png", "cold_start.svg")
_GROUPS = {"": "all", "[cold]": "cold", "[warm]": "warm"}


def cold_start_report(
    models: str,
    study: Study,
    *,
    kind: str | None = None,
    out: str | Path | None = None,
    model_options: Sequence[str] = (),
) -> int:
    """Finish the runs of models under one cold-start protocol, and compare them.

    The folder ``out`` gets ``cold_start.{md,csv,png,svg}``. The CSV file has all metrics of the runs.

    Args:
        models: Names, separated by commas.
        study: Dataset, seeds and options of every run.
        kind: Short form of ``cold_start: {kind: ...}``; by default the kind in the options, else ``item``.
        out: Folder; by default ``<runs_dir>/<dataset>/cold-start-<kind>``.
        model_options: ``MODEL.key=value``, stronger than the options of every run.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input, before any run starts.
    """
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"command line: --models={models}: name each model once, and at least one")
    study = _asking_for(kind, names[0], study)
    own, labels = options_of_models(names, model_options, None), short_names(names)
    asked = Config(names[0], study.dataset, study.files, command_line=dict(study.options)).cold_start
    assert asked is not None
    folder = Path(out or Path(study.runs_dir) / study.dataset / f"cold-start-{asked.kind}")
    for name in _FILES:
        check_output(folder / name, "--out" if out else "--runs_dir")
    wanted = [(labels[name], study.specs(name, own[name])) for name in names]
    entries = study.finish(wanted, TableParams(stat="none"), mixable=False)
    _write(folder, _cold_table(f"Cold start on {study.dataset}", entries))
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


def _write(folder: Path, table: Comparison) -> None:
    """Write table and figure, and print the table."""
    written = [folder / name for name in _FILES[:2]]
    shown = replace(table, columns=_shown_columns(table))
    write_tables([shown], written[:1])
    write_tables([table], written[1:])
    print_tables([shown])
    try:
        check_matplotlib()
    except UserError as error:
        print_line(f"no figure: {error}", sys.stderr)
    else:
        for name in _FILES[2:] if table.columns else ():
            save_figure(_figure(table), folder / name)
            written.append(folder / name)
    print_line(f"written: {', '.join(map(str, written))}", sys.stderr)


def _cold_table(title: str, entries: Sequence[Entry]) -> Comparison:
    """Compare the entries on all metrics that their runs share, with a row for chance."""
    results = {entry.label: [run.read_results() for run in entry.runs] for entry in entries}
    whole = [results[entry.label] for entry in entries if entry.runs and not entry.failures]
    tests = [result["test"] for of_entry in whole for result in of_entry]
    columns = tuple(name for name in tests[0] if all(name in test for test in tests)) if tests else None
    params = TableParams(stat="none", columns=columns)
    table = compare_entries(title, entries, params, improvement=False, mixable=False)
    if not whole:
        return table
    rows = [row if row.failure else replace(row, facts=_facts(results[row.label])) for row in table.rows]
    runs = whole[0]
    parts = [one.get("chance", {}) for one in runs]
    known = [name for name in columns or () if all(name in part for part in parts)]
    chance = {name: fmean(part[name] for part in parts) for name in known}
    rows.append(Row("chance", mean=chance, reference=True))
    facts = ("Scores cold items", "Best epoch")
    return replace(table, rows=tuple(rows), facts=facts, remarks=tuple(_remarks(table, rows, runs[0])))


def _facts(runs: Results) -> dict[str, str]:
    scores = {True: "yes", False: "no", None: ""}[runs[0].get("scores_cold_items")]
    return {"Scores cold items": scores, "Best epoch": ", ".join(str(one["best_epoch"]) for one in runs)}


def _remarks(table: Comparison, rows: Sequence[Row], first: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the cold-start protocol is, and what a model without scores for cold items does."""
    settings = first["protocol_facts"]["cold_start"]
    asked = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "candidates")
    seeds = ", ".join(map(str, sorted({seed for row in rows for seed in row.seeds})))
    ids = ", ".join(sorted({one for row in rows for one in row.protocols}))
    yield f"{asked}; candidates: {first['candidates']}; seeds: {seeds}; protocol_id {ids}."
    if any(row.facts.get("Scores cold items") == "no" for row in rows):
        yield (
            "A model that does not score cold items ranks items without a training row by item order or by "
            "chance."
        )


def _shown_columns(table: Comparison) -> tuple[str, ...]:
    """Return the metrics at the largest cut-off."""
    if not table.columns:
        return ()
    facts = table.protocol["protocol_facts"]
    at_k = f"@{max(facts['topk'])}"
    names = [name for name in table.columns if name.partition("[")[0].endswith(at_k)]
    if facts["cold_start"]["kind"] == "item":
        names = [name for name in names if "[" not in name]  # every tested item is cold
    return tuple(names)


def _figure(table: Comparison) -> Any:
    """Draw one bar per model: several metrics on cold items, or one metric on all, cold and warm ones."""
    facts = table.protocol["protocol_facts"]
    k, kind = max(facts["topk"]), facts["cold_start"]["kind"]
    metrics = [name for name in (f"recall@{k}", f"ndcg@{k}") if name in table.columns] or [table.columns[0]]
    if kind == "item":
        names, groups, ylabel = metrics, [metric_label(name) for name in metrics], "test, cold items"
    else:
        names = [f"{metrics[0]}{group}" for group in _GROUPS if f"{metrics[0]}{group}" in table.columns]
        noun = "users" if kind == "user" else "items"
        groups = [f"{_GROUPS[name.removeprefix(metrics[0])]} {noun}" for name in names]
        ylabel = f"{metric_label(metrics[0])}, test"
    kept = [row for row in table.rows if not row.failure]
    series = {row.label: [row.mean.get(name) for name in names] for row in kept}
    spread = {row.label: [row.std.get(name) for name in names] for row in kept}
    return draw_bars(groups, series, ylabel, spread, f"{table.dataset}, candidates: {facts['candidates']}")
