"""Parts of the report of one dataset and protocol: test metrics, curves, slices, cost, and each run."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_siger.common.json_files import is_finite
from recbole_siger.common.terminal import plain
from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.report.comparison import Entry
from recbole_siger.report.curves import draw_overlay
from recbole_siger.report.figures import metric_label
from recbole_siger.report.html import Cell, details, picture, table
from recbole_siger.runs.folder import RunFolder

__all__ = ["best_cells", "cost_section", "metric_section", "overlay_section", "run_facts", "slice_section"]

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""``{label: results.json of each run}``."""

_SLICES = {
    "item_popularity": "popularity of the items in training",
    "user_activity": "activity of the users in training",
    "modality_coverage": "modalities of the items",
}


def best_cells(columns: Sequence[Sequence[Sequence[float]]], bigger: Sequence[bool]) -> list[list[Cell]]:
    """Write the values of each column as mean ± standard deviation, the best mean bold.

    Args:
        columns: For each column and row the values of all seeds; empty without a value.
        bigger: For each column whether a higher value is better.

    Returns:
        Rows of cells. A single row has no best value; rows that are equal as written are all best.

    Example:
        >>> [[cell]] = best_cells([[[0.1, 0.3]]], [True])
        >>> cell.text
        '0.2000 ± 0.1414'
    """
    by_column = []
    for column, up in zip(columns, bigger, strict=True):
        means = [f"{np.mean(values):.4f}" if len(values) else "" for values in column]
        known = [float(mean) for mean in means if mean]
        top = (max if up else min)(known) if len(known) > 1 else None
        by_column.append(
            [
                Cell(_spread(mean, values), best=bool(mean) and float(mean) == top)
                for mean, values in zip(means, column, strict=True)
            ]
        )
    return [list(row) for row in zip(*by_column, strict=True)]


def _spread(mean: str, values: Sequence[float]) -> str:
    return f"{mean} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else mean


def metric_section(results: Results) -> str:
    """Return the table of test metrics that all runs have."""
    tests = [one["test"] for of_entry in results.values() for one in of_entry]
    names = [name for name in tests[0] if all(name in test for test in tests)]
    columns = [[[one["test"][name] for one in of_entry] for of_entry in results.values()] for name in names]
    cells = best_cells(columns, [bigger_is_better(name) for name in names])
    rows: list[list[str | Cell]] = [
        [
            label,
            ", ".join(str(one["seed"]) for one in of_entry),
            ", ".join(str(one["best_epoch"]) for one in of_entry),
            *cells[place],
        ]
        for place, (label, of_entry) in enumerate(results.items())
    ]
    several = any(len(of_entry) > 1 for of_entry in results.values())
    caption = (
        "Test of the best validation epoch"
        + ("; mean ± standard deviation over seeds" if several else "")
        + ("; the best value of a column is bold" if len(results) > 1 else "")
    )
    return table(caption, ["Model", "Seeds", "Best epoch", *map(metric_label, names)], rows)


def overlay_section(entries: Sequence[Entry], title: str) -> str:
    """Return the validation curves of all entries in one picture; empty if no run was validated."""
    metric = str(entries[0].runs[0].read_config().get("valid_metric", "")).lower()
    curves = {}
    for entry in entries:
        of_seeds = []
        for run in entry.runs:
            valid = {
                one["epoch"]: one["valid"][metric]
                for one in run.read_metrics()
                if metric in (one["valid"] or {})
            }
            if valid:
                of_seeds.append((list(valid), list(valid.values())))
        if of_seeds:
            curves[entry.label] = of_seeds
    if not curves:
        return ""
    several = any(len(of_seeds) > 1 for of_seeds in curves.values())
    text = f"Validation {metric_label(metric)} by epoch, all models" + (
        "; thick: mean over seeds, band: standard deviation, thin: each seed" if several else ""
    )
    return picture(draw_overlay(curves, metric, title), text)


def slice_section(results: Results, metric: str) -> str:
    """Return one table a kind of slice: the metric of each group of items or users."""
    parts = []
    for kind, words in _SLICES.items():
        found = {label: [_groups(one, kind) for one in of_entry] for label, of_entry in results.items()}
        groups = list(dict.fromkeys(name for seeds in found.values() for one in seeds for name in one))
        names = [key for seeds in found.values() for one in seeds for group in one.values() for key in group]
        shown = metric if metric in names else next((n for n in names if not n.startswith("n_")), None)
        if not groups or shown is None:
            continue
        columns = [
            [[one[group][shown] for one in seeds if shown in one.get(group, {})] for seeds in found.values()]
            for group in groups
        ]
        cells = best_cells(columns, [bigger_is_better(shown)] * len(groups))
        head = ["Model", *(f"{group}{_size(found, group)}" for group in groups)]
        rows: list[list[str | Cell]] = [[label, *cells[place]] for place, label in enumerate(found)]
        parts.append(table(f"Test {metric_label(shown)} by {words}", head, rows))
    return "\n".join(parts)


def _groups(result: Mapping[str, Any], kind: str) -> dict[str, dict[str, float]]:
    """Return the groups of a slice with the values that are finite numbers: the file may come from anyone."""
    slices = result.get("slices")
    found = slices.get(kind) if isinstance(slices, dict) else None
    if not isinstance(found, dict):
        return {}
    return {
        str(group): {name: float(value) for name, value in values.items() if is_finite(value)}
        for group, values in found.items()
        if isinstance(values, dict)
    }


def _size(found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], group: str) -> str:
    """Return the number of items or users of a group if all runs agree, else nothing."""
    for noun in ("items", "users"):
        counts = {one.get(group, {}).get(f"n_{noun}") for seeds in found.values() for one in seeds}
        if len(counts) == 1 and (count := counts.pop()) is not None:
            return f" ({count:,.0f} {noun})"
    return ""


def cost_section(entries: Sequence[Entry], results: Results) -> str:
    """Return the table of what each model cost: time, memory, parameters, and the date of its first run."""
    rows = []
    for entry in entries:
        of_entry = results[entry.label]
        seconds = [one["n_epochs"] * one["seconds_per_epoch"] for one in of_entry]
        n_parameters = of_entry[0]["n_parameters"]
        rows.append(
            [
                entry.label,
                min(filter(None, map(started, entry.runs)), default=""),
                f"{np.mean([one['n_epochs'] for one in of_entry]):.4g}",
                f"{np.mean([one['seconds_per_epoch'] for one in of_entry]):.2f}",
                f"{np.mean(seconds):,.1f}",
                f"{max(one['peak_memory_mib'] for one in of_entry):,.0f}",
                f"{n_parameters:,}" if n_parameters > 1 else "-",
            ]
        )
    head = ["Model", "Started", "Epochs", "Seconds an epoch", "Seconds in all", "Peak memory (MiB)"]
    caption = "Cost: means over seeds, memory the largest; seconds with validation"
    return table(caption, [*head, "Trained parameters"], rows)


def started(run: RunFolder) -> str:
    """Return the first time in the log of a run, ``YYYY-MM-DD HH:MM``; empty without a log."""
    file = run.file("run.log")
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        found = re.match(rb"\d{4}-\d\d-\d\d \d\d:\d\d", stream.read(16))
    return found[0].decode("ascii") if found else ""


def run_facts(run: RunFolder, result: Mapping[str, Any]) -> str:
    """Return validation and test metrics, versions and configuration of one run."""
    names = list(result["test"])
    rows = [
        [phase, *(f"{result[phase][name]:.4f}" if name in result[phase] else "" for name in names)]
        for phase in ("valid", "test")
    ]
    facts = [[name, text] for name, text in {"started": started(run), **result["versions"]}.items()]
    lines = run.file("config.yaml").read_text(encoding="utf-8").split("\n")
    return (
        table("Metrics of the best epoch", ["Part", *map(metric_label, names)], rows)
        + details("Date and versions", table("Date and versions", ["Name", "Value"], facts))
        + details("Configuration", f"<pre>{_escaped(lines)}</pre>")
    )


def _escaped(lines: Sequence[str]) -> str:
    return "\n".join(html.escape(plain(line)) for line in lines)
