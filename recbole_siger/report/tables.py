"""A comparison as Markdown, LaTeX, CSV or JSON, in files and on standard output."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from recbole_siger.common.files import check_output, write_text
from recbole_siger.common.terminal import open_console, plain
from recbole_siger.errors import UserError
from recbole_siger.report.cells import (
    Style,
    body_rows,
    header_cells,
    notes_of,
    paired_header,
    paired_rows,
)
from recbole_siger.report.comparison import Comparison, RowTest
from recbole_siger.report.latex import latex
from recbole_siger.report.terminal import show_tables

__all__ = [
    "FORMATS",
    "expand_names",
    "finite_json",
    "latex",
    "markdown",
    "markdown_table",
    "markdown_text",
    "print_tables",
    "write_tables",
]


def expand_names(words: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Read output names: several words, a list with commas, or braces that the shell did not expand.

    Raises:
        UserError: For a suffix that is none of ``suffixes``, and for a name that cannot be a file's.

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
        check_output(path)
    return paths


def write_tables(comparisons: Sequence[Comparison], paths: Sequence[Path]) -> None:
    """Write all comparisons into each of ``paths``, in the format of its suffix."""
    for path in paths:
        write_text(path, FORMATS[path.suffix.removeprefix(".")](comparisons))


def print_tables(comparisons: Sequence[Comparison]) -> None:
    """Print all comparisons to standard output: as tables on a terminal, as Markdown in a pipe or a file."""
    console = open_console()
    if console.file.isatty():
        show_tables(comparisons, console)
    else:
        print(markdown(comparisons), end="")


# ---- formats


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Write tables for a page."""
    style = Style(
        bold=lambda text: f"**{text}**", underline=lambda text: f"<u>{text}</u>", escape=markdown_text
    )
    parts = []
    for comparison in comparisons:
        parts.append(f"## {markdown_text(comparison.title)}")
        parts.append(_lines(header_cells(comparison), body_rows(comparison, style)))
        if tests := paired_rows(comparison, style):
            parts.append(_lines(paired_header(comparison), tests))
        parts += map(markdown_text, notes_of(comparison))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write one table of cells that are not escaped."""
    return _lines(header, [[markdown_text(cell) for cell in row] for row in rows])


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[*map(markdown_text, header)], ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    r"""Escape what Markdown would read as a column, an HTML tag, code or the target of a link.

    >>> print(markdown_text("a|b <b> `c` [d](e) recall@20[cold]"))
    a\|b \<b> \`c\` [d]\(e) recall@20[cold]
    """
    escaped = re.sub(r"(\\*)([|<`])", lambda found: f"{found[1] * 2}\\{found[2]}", plain(text))
    return escaped.replace("](", "]\\(")


def table_csv(comparisons: Sequence[Comparison]) -> str:
    """Write one line per row, with every metric and test at full precision."""
    rows = [line for comparison in comparisons for line in _flat(comparison)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _csv_cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would calculate as a formula."""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


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
        line |= {name.lower().replace(" ", "_"): row.facts.get(name, "") for name in comparison.facts}
        line |= {key: getattr(row, key) for key in ("n_parameters", "seconds_per_epoch", "peak_memory_mib")}
        for column in comparison.columns:
            if column in row.mean:
                line |= {column: row.mean[column], f"{column}_std": row.std.get(column)}
            if tested := row.tests.get(column):
                line |= {f"{column}_{key}": value for key, value in _test_values(tested).items()}
        lines.append(line)
    return lines


def _test_values(tested: RowTest) -> dict[str, float]:
    return {**asdict(tested.result), "p_corrected": tested.p_corrected}


def table_json(comparisons: Sequence[Comparison]) -> str:
    """Write all values, with the run folders that they come from."""
    tables = []
    for comparison in comparisons:
        plain = asdict(comparison)
        for row, whole in zip(plain["rows"], comparison.rows, strict=True):
            row["tests"] = {name: _test_values(tested) for name, tested in whole.tests.items()}
        tables.append({**plain, "notes": notes_of(comparison)})
    return json.dumps({"schema": 1, "tables": finite_json(tables)}, indent=2, allow_nan=False) + "\n"


def finite_json(value: object) -> object:
    """Replace numbers that JSON does not have by text."""
    if isinstance(value, dict):
        return {key: finite_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": table_csv,
    "json": table_json,
}
