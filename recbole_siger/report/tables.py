"""A comparison as Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recbole_siger.common.files import write_text
from recbole_siger.errors import UserError
from recbole_siger.report.comparison import Comparison, Row, RowTest, bigger_is_better

__all__ = ["FORMATS", "expand_names", "markdown", "write_tables"]

_TESTS = {"wilcoxon": "Wilcoxon's signed-rank test", "t-test": "Student's paired t-test"}
_EFFECTS = {"wilcoxon": "rank-biserial correlation", "t-test": "Cohen's d_z"}


def expand_names(words: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Read output names: several words, a comma list, or braces that the shell has left alone.

    Raises:
        UserError: For a suffix that is none of ``suffixes``.

    Example:
        >>> [str(p) for p in expand_names(["t.{md,tex}", "a.csv,b.json"], ["md", "tex", "csv", "json"])]
        ['t.md', 't.tex', 'a.csv', 'b.json']
    """
    names: list[str] = []
    for word in words:
        for part in re.findall(r"(?:\{[^}]*\}|[^,{])+", word):
            before, brace, rest = part.partition("{")
            inner, _, after = rest.partition("}")
            names += [f"{before}{one}{after}" for one in inner.split(",")] if brace else [part]
    paths = [Path(name) for name in dict.fromkeys(names)]
    for path in paths:
        if path.suffix.removeprefix(".") not in suffixes:
            raise UserError(
                f"--out: {str(path)!r}: the name must end in {', '.join('.' + s for s in suffixes)}"
            )
    return paths


def write_tables(comparisons: Sequence[Comparison], paths: Sequence[Path]) -> None:
    """Write all comparisons into each of ``paths``, in the format of its suffix."""
    for path in paths:
        write_text(path, FORMATS[path.suffix.removeprefix(".")](comparisons))


# ---- what all formats tell


@dataclass(frozen=True)
class _Style:
    """How a format writes what is not plain text."""

    bold: Callable[[str], str]
    underline: Callable[[str], str]
    escape: Callable[[str], str]
    plus_minus: str
    dash: str
    percent: str


def _header(comparison: Comparison) -> list[str]:
    return ["Model", "Seeds", *map(_metric_name, comparison.columns), "Parameters", "s/epoch", "MiB"]


def _metric_name(column: str) -> str:
    name, at, k = column.partition("@")
    short = {"recall": "R", "ndcg": "N", "precision": "P", "hit": "H", "mrr": "MRR", "map": "MAP"}
    return f"{short.get(name, name)}{at}{k}"


def _cells(comparison: Comparison, row: Row, style: _Style) -> list[str]:
    mark = " *" if row.mixed else ""
    label = style.escape(row.label) + mark
    if row.failure:
        return [label, "failed", *[""] * len(comparison.columns), "", "", ""]
    cells = [label, str(len(row.seeds))]
    for column in comparison.columns:
        place = [other.label for other in comparison.ranked(column)[:2]]
        text = _value(row, column, style)
        if len(comparison.ranked(column)) > 1 and row.label in place:
            text = (style.bold if row.label == place[0] else style.underline)(text)
        cells.append(text)
    # RecBole gives a model without any a parameter of size 1, so that an optimizer can be made.
    parameters = f"{row.n_parameters:,}" if (row.n_parameters or 0) > 1 else style.dash
    return [*cells, parameters, f"{row.seconds_per_epoch:.2f}", f"{row.peak_memory_mib:.0f}"]


def _value(row: Row, column: str, style: _Style) -> str:
    std = row.std[column]
    return f"{row.mean[column]:.4f}" + ("" if std is None else f" {style.plus_minus} {std:.4f}")


def _improvement(comparison: Comparison, style: _Style) -> list[str]:
    """Make the row that tells how far the first model is ahead of the best other one in each column."""
    first, cells = comparison.rows[0], ["Improvement", ""]
    for column in comparison.columns:
        other = comparison.strongest(column)
        assert other is not None
        gain = 100 * (first.mean[column] / other.mean[column] - 1) * (1 if bigger_is_better(column) else -1)
        cells.append(f"{gain:+.2f} {style.percent} ({style.escape(other.label)})")
    return [*cells, "", "", ""]


def _test_header(comparison: Comparison) -> list[str]:
    first = comparison.rows[0].label
    return [
        f"{first} against",
        _metric_name(comparison.selection),
        "Difference",
        "95 % interval",
        "Effect",
        "p",
        _p_name(comparison),
    ]


def _p_name(comparison: Comparison) -> str:
    return "p (Holm)" if comparison.params.correct == "holm" else "p (uncorrected)"


def _test_rows(comparison: Comparison, style: _Style) -> list[list[str]]:
    """Make a row for each tested one, on the metric that selects epochs."""
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


def _notes(comparison: Comparison) -> list[str]:
    """Say what the numbers are."""
    first, params = comparison.rows[0], comparison.params
    notes = [f"{row.label}: {row.failure}" for row in comparison.rows if row.failure]
    if all(row.failure for row in comparison.rows):
        return notes
    facts, n_seeds = comparison.protocol, [len(row.seeds) for row in comparison.rows if not row.failure]
    least, most = min(n_seeds), max(n_seeds)
    notes.append(
        f"Test of the best validation epoch under protocol {facts['protocol']} ({facts['protocol_id']})"
        + ("; mean ± standard deviation over seeds" if most > 1 else "")
        + ". Best bold, second underlined. Parameters: trained by gradient. s/epoch: with validation. MiB: "
        "at the peak." + (" A model that draws no random number needs one seed." if least == 1 < most else "")
    )
    if _has_improvement(comparison):
        notes.append(
            f"Improvement: of {first.label} over the best other row of each column on test, the one that is "
            "hardest to beat."
        )
    sample = next((tested.result.n for row in comparison.rows for tested in row.tests.values()), None)
    if sample is not None and params.stat is not None:
        n_tests = sum(bool(row.tests) for row in comparison.rows)
        over = (
            f"{sample:,} users, each with the mean over its seeds"
            if params.over == "users"
            else f"{sample} seeds"
        )
        holm = f"Holm over the {n_tests} rows of one metric" if params.correct == "holm" else "no correction"
        notes.append(
            f"Tests: {_TESTS[params.stat]}, two-sided, over {over}; {holm}; interval of the mean difference "
            f"by bootstrap (percentile, 2,000 draws); effect: {_EFFECTS[params.stat]}."
        )
    if any(row.mixed for row in comparison.rows):
        ids = {row.label: ", ".join(row.protocols) for row in comparison.rows if row.mixed}
        marked = "; ".join(f"{label} ({protocols})" for label, protocols in ids.items())
        notes.append(f"* another protocol, not comparable, not ranked, not tested: {marked}.")
    return notes


def _has_improvement(comparison: Comparison) -> bool:
    """Say whether the first row can be measured by the best of the others."""
    others = [comparison.strongest(column) for column in comparison.columns]
    measurable = all(o is not None and o.mean[c] for o, c in zip(others, comparison.columns, strict=True))
    return comparison.params.stat is not None and comparison.improvement and measurable


# ---- formats


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Write tables for a page."""
    style = _Style(
        bold=lambda text: f"**{text}**",
        underline=lambda text: f"<u>{text}</u>",
        escape=lambda text: text.replace("|", "\\|"),
        plus_minus="±",
        dash="-",
        percent="%",
    )

    def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    parts = []
    for comparison in comparisons:
        parts += [f"## {comparison.title}", table(_header(comparison), _body(comparison, style))]
        if tests := _test_rows(comparison, style):
            parts.append(table(_test_header(comparison), tests))
        parts += _notes(comparison)
    return "\n\n".join(parts) + "\n"


def _body(comparison: Comparison, style: _Style) -> list[list[str]]:
    body = [_cells(comparison, row, style) for row in comparison.rows]
    return [*body, _improvement(comparison, style)] if _has_improvement(comparison) else body


def latex(comparisons: Sequence[Comparison]) -> str:
    r"""Write ``table`` environments; they need the package booktabs."""
    style = _Style(
        bold=lambda text: f"\\textbf{{{text}}}",
        underline=lambda text: f"\\underline{{{text}}}",
        escape=_latex_text,
        plus_minus="$\\pm$",
        dash="--",
        percent="\\%",
    )

    def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
        lines = [" & ".join(line) + r" \\" for line in rows]
        head = " & ".join(map(_latex_text, header)) + r" \\"
        columns = "l" + "r" * (len(header) - 1)
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex_text(caption)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    parts = ["% Needs \\usepackage{booktabs}."]
    for comparison in comparisons:
        parts.append(table(_header(comparison), _body(comparison, style), comparison.title))
        if tests := _test_rows(comparison, style):
            rows = [[*map(_latex_math, row)] for row in tests]
            title = f"{comparison.title}: {comparison.rows[0].label} against the others"
            parts.append(table(_test_header(comparison), rows, title))
        parts += ["% " + note for note in _notes(comparison)]
    return "\n\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


def _latex_text(text: str) -> str:
    r"""Escape what LaTeX would read as a command.

    >>> print(_latex_text("ablation=mp_weight & 5 %"))
    ablation=mp\_weight \& 5 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _latex_math(cell: str) -> str:
    """Set a signed number, or a bound on one, as mathematics; a hyphen is no minus."""
    return f"${cell}$" if re.match(r"[-+<\[]", cell) else cell


def table_csv(comparisons: Sequence[Comparison]) -> str:
    """Write a line a row, with every metric and test at full precision."""
    rows = [line for comparison in comparisons for line in _flat(comparison)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(comparison: Comparison) -> list[dict[str, object]]:
    lines = []
    for row in comparison.rows:
        line: dict[str, object] = {
            "table": comparison.title,
            "dataset": comparison.dataset,
            "model": row.label,
            "protocol_id": " ".join(row.protocols),
            "seeds": " ".join(map(str, row.seeds)),
            "failure": row.failure,
        }
        line |= {key: getattr(row, key) for key in ("n_parameters", "seconds_per_epoch", "peak_memory_mib")}
        for column in comparison.columns if not row.failure else ():
            line |= {column: row.mean[column], f"{column}_std": row.std[column]}
            if tested := row.tests.get(column):
                line |= {f"{column}_{key}": value for key, value in _test_values(tested).items()}
        lines.append(line)
    return lines


def _test_values(tested: RowTest) -> dict[str, float]:
    return {**asdict(tested.result), "p_corrected": tested.p_corrected}


def table_json(comparisons: Sequence[Comparison]) -> str:
    """Write everything, with the run folders that it comes from."""
    tables = []
    for comparison in comparisons:
        plain = asdict(comparison)
        for row, whole in zip(plain["rows"], comparison.rows, strict=True):
            row["tests"] = {name: _test_values(tested) for name, tested in whole.tests.items()}
        tables.append({**plain, "notes": _notes(comparison)})
    return json.dumps({"schema": 1, "tables": _finite(tables)}, indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """Turn numbers that JSON lacks into text."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": table_csv,
    "json": table_json,
}
