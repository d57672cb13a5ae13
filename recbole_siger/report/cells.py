"""The cells and notes of a comparison, which all formats share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole_siger.common.terminal import plain
from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.report.comparison import Comparison, Row

__all__ = ["Style", "body_rows", "header_cells", "notes_of", "paired_header", "paired_rows"]

_TESTS = {"wilcoxon": "Wilcoxon's signed-rank test", "t-test": "Student's paired t-test"}
_EFFECTS = {"wilcoxon": "rank-biserial correlation", "t-test": "Cohen's d_z"}


@dataclass(frozen=True)
class Style:
    """How a format writes what is not plain text.

    Attributes:
        bold: Marks the best value of a column.
        underline: Marks the second value.
        escape: Makes a label or a fact literal.
        plus_minus: Sign between mean and standard deviation.
        dash: Cell of a model without trained parameters.
        percent: Percent sign.
    """

    bold: Callable[[str], Any]
    underline: Callable[[str], Any]
    escape: Callable[[str], str]
    plus_minus: str = "±"
    dash: str = "-"
    percent: str = "%"


def header_cells(comparison: Comparison) -> list[str]:
    """Return the names of the columns, not escaped."""
    metrics = map(_metric_name, comparison.columns)
    return ["Model", "Seeds", *comparison.facts, *metrics, "Parameters", "s/epoch", "MiB"]


def _metric_name(column: str) -> str:
    name, at, k = column.partition("@")
    short = {"recall": "R", "ndcg": "N", "precision": "P", "hit": "H", "mrr": "MRR", "map": "MAP"}
    return f"{short.get(name, name)}{at}{k}"


def body_rows(comparison: Comparison, style: Style) -> list[list[Any]]:
    """Return the cells of each row; the last row is the improvement, if there is one."""
    body = [_cells(comparison, row, style) for row in comparison.rows]
    return [*body, _improvement(comparison, style)] if _has_improvement(comparison) else body


def _cells(comparison: Comparison, row: Row, style: Style) -> list[Any]:
    label = style.escape(row.label + (" *" if row.mixed else ""))
    facts = [style.escape(row.facts.get(name, "")) for name in comparison.facts]
    if row.failure:
        return [label, "failed", *facts, *[""] * len(comparison.columns), "", "", ""]
    cells: list[Any] = [label, "" if row.reference else str(len(row.seeds)), *facts]
    for column in comparison.columns:
        ranked = comparison.ranked(column)
        text = _value(row, column, style)
        if len(ranked) > 1 and any(row is one for one in ranked[:2]):
            text = (style.bold if row is ranked[0] else style.underline)(text)
        cells.append(text)
    if row.reference:
        return [*cells, "", "", ""]
    # RecBole gives a model without parameters one parameter of size 1, because an optimizer needs one.
    parameters = f"{row.n_parameters:,}" if (row.n_parameters or 0) > 1 else style.dash
    return [*cells, parameters, f"{row.seconds_per_epoch:.2f}", f"{row.peak_memory_mib:.0f}"]


def _value(row: Row, column: str, style: Style) -> str:
    if column not in row.mean:
        return ""
    std = row.std.get(column)
    return f"{row.mean[column]:.4f}" + ("" if std is None else f" {style.plus_minus} {std:.4f}")


def _improvement(comparison: Comparison, style: Style) -> list[str]:
    """Return by how much the first model is better than the best other model, column by column."""
    first, cells = comparison.rows[0], ["Improvement", "", *[""] * len(comparison.facts)]
    for column in comparison.columns:
        other = comparison.strongest(column)
        assert other is not None
        gain = 100 * (first.mean[column] / other.mean[column] - 1) * (1 if bigger_is_better(column) else -1)
        cells.append(f"{gain:+.2f} {style.percent} ({style.escape(other.label)})")
    return [*cells, "", "", ""]


def paired_header(comparison: Comparison) -> list[str]:
    """Return the names of the columns of the table of tests, not escaped."""
    p_name = "p (Holm)" if comparison.params.correct == "holm" else "p (uncorrected)"
    metric = _metric_name(comparison.selection)
    return [f"{comparison.rows[0].label} against", metric, *_TEST_COLUMNS, p_name]


_TEST_COLUMNS = ("Difference", "95 % interval", "Effect", "p")


def paired_rows(comparison: Comparison, style: Style) -> list[list[str]]:
    """Return the cells of each tested row, on the metric that selects epochs."""
    rows = []
    for row in comparison.rows:
        if tested := row.tests.get(comparison.selection):
            result = tested.result
            rows.append(
                [
                    style.escape(row.label),
                    f"{row.mean[comparison.selection]:.4f}",
                    f"{result.difference:+.4f}",
                    f"[{result.low:+.4f}, {result.high:+.4f}]",
                    f"{result.effect:+.2f}",
                    _p_text(result.p),
                    _p_text(tested.p_corrected),
                ]
            )
    return rows


def _p_text(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def notes_of(comparison: Comparison) -> list[str]:
    """Return what explains the numbers, one line each, not escaped."""
    notes = [f"{row.label}: {row.failure}" for row in comparison.rows if row.failure]
    if any(row.mean for row in comparison.rows):
        notes += [*comparison.remarks, _note_on_numbers(comparison)]
        if _has_improvement(comparison):
            notes.append(
                f"Improvement: of {comparison.rows[0].label} over the best other row of each column on test."
            )
        notes += _note_on_tests(comparison) + _note_on_protocols(comparison)
    return [plain(note) for note in notes]


def _note_on_numbers(comparison: Comparison) -> str:
    facts = comparison.protocol
    rows = [row for row in comparison.rows if not row.failure and not row.reference]
    most = max(len(row.seeds) for row in rows)
    lone = most > 1 and any(len(row.seeds) == 1 and row.seedless for row in rows)
    return (
        f"Test of the best validation epoch under protocol {facts['protocol']} ({facts['protocol_id']})"
        + ("; mean ± standard deviation over seeds" if most > 1 else "")
        + ". Best bold, second underlined. Parameters: trained by gradient. s/epoch: with validation. MiB: "
        "at the peak." + (" A model that draws no random number needs one seed." if lone else "")
    )


def _note_on_tests(comparison: Comparison) -> list[str]:
    params = comparison.params
    sample = next((tested.result.n for row in comparison.rows for tested in row.tests.values()), None)
    if sample is None or params.stat == "none":
        return []
    n_tests = sum(bool(row.tests) for row in comparison.rows)
    users = f"{sample:,} users, each with the mean over its seeds"
    over = users if params.over == "users" else f"{sample} seeds"
    holm = f"Holm over the {n_tests} rows of one metric" if params.correct == "holm" else "no correction"
    return [
        f"Tests: {_TESTS[params.stat]}, two-sided, over {over}; {holm}; interval of the mean difference "
        f"by bootstrap (percentile, 2,000 draws); effect: {_EFFECTS[params.stat]}."
    ]


def _note_on_protocols(comparison: Comparison) -> list[str]:
    ids = {row.label: ", ".join(row.protocols) for row in comparison.rows if row.mixed}
    marked = "; ".join(f"{label} ({protocols})" for label, protocols in ids.items())
    return [f"* another protocol, not comparable, not ranked, not tested: {marked}."] if ids else []


def _has_improvement(comparison: Comparison) -> bool:
    """Tell whether the first row can be compared with the best of the others."""
    others = [comparison.strongest(column) for column in comparison.columns]
    measurable = all(o is not None and o.mean[c] for o, c in zip(others, comparison.columns, strict=True))
    return comparison.params.stat != "none" and comparison.improvement and measurable and bool(others)
