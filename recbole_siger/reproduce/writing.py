"""A reproduction as Markdown, LaTeX and JSON, and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from recbole_siger.common.terminal import build_table, open_console, plain
from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.report.figures import metric_label
from recbole_siger.report.latex import latex, latex_table, latex_text
from recbole_siger.report.tables import finite_json, markdown, markdown_table, markdown_text
from recbole_siger.reproduce.join import Cell, Finding, Line, Reproduction
from recbole_siger.reproduce.paper import Claim, PaperTable

__all__ = [
    "Section",
    "as_json",
    "as_latex",
    "as_markdown",
    "notes_on_options",
    "print_sections",
    "sections_of",
    "title_of",
]


@dataclass(frozen=True)
class Section:
    """One table with its notes.

    Attributes:
        title: Title of the table.
        header: Names of the columns; no table for an empty header.
        rows: Cells of each row, not escaped.
        notes: Lines below the table, not escaped.
    """

    title: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def title_of(table: PaperTable, dataset: str, note: str) -> str:
    """Name a table and a dataset, with the nature of the data."""
    title = f"{table.place}: {table.title}, on {dataset}"
    return f"{title} ({note})" if note else title


def sections_of(found: Reproduction) -> list[Section]:
    """Return the tables of a reproduction: state, each metric (the main metric first), claims, settings."""
    table = found.table
    metrics = sorted(table.metrics, key=lambda metric: metric != table.metric)
    title = title_of(table, found.dataset, found.note)
    parts = [Section(title, notes=tuple(_head(found)))]
    parts += [_metric_section(found, metric) for metric in metrics]
    if found.claims:
        parts.append(_claims_section(found))
    parts.append(_settings_section(found))
    return parts


def _head(found: Reproduction) -> Iterator[str]:
    table = found.table
    yield f"Paper: {table.paper}."
    if found.note:
        yield f"Data: {found.note}."
    yield _progress(found)
    if judged := [cell for line in found.lines if (cell := line.cells[table.metric]).verdict]:
        n_within = sum(cell.verdict == "within" for cell in judged)
        yield (
            f"{metric_label(table.metric)} of {n_within} of {len(judged)} rows with both numbers is within "
            f"{table.tolerance:g} % of the paper."
        )
    yield from (f"{line.label}: {line.state}: {line.reason}." for line in found.lines if line.reason)
    yield from notes_on_options(found.changed, found.file_values)
    yield from table.remarks


def notes_on_options(changed: Mapping[str, Any], file_values: Mapping[str, Any]) -> Iterator[str]:
    """Name what the command line and configuration files changed."""
    for source, values in (
        ("Options of the command line, for every run", changed),
        ("Values of configuration files, for every row that does not state them", file_values),
    ):
        if values:
            yield f"{source}: {', '.join(f'{key}={value}' for key, value in values.items())}."


def _progress(found: Reproduction) -> str:
    wanted = sum(line.wanted for line in found.lines)
    done = sum(line.n_runs for line in found.lines)
    if not found.unfinished:
        return f"Complete: {done} of {wanted} runs are finished."
    rows = ", ".join(
        f"{line.label} ({line.wanted - line.n_runs} of {line.wanted})" for line in found.unfinished
    )
    return f"Partial: {done} of {wanted} runs are finished. Missing runs: {rows}."


# ---- metrics


def _metric_section(found: Reproduction, metric: str) -> Section:
    cells = [line.cells[metric] for line in found.lines]
    compared = any(cell.published is not None for cell in cells)
    places = _places(found.lines, metric)
    columns = {
        "Row": [line.label for line in found.lines],
        "Published": [_number(cell.published) for cell in cells],
        "Ours": [_mean(cell) for cell in cells],
        "Runs": [_runs(line) for line in found.lines],
        "Difference": [_percent(cell.difference) for cell in cells],
        "Verdict": [
            _verdict(line, cell, found.table.tolerance, compared=compared)
            for line, cell in zip(found.lines, cells, strict=True)
        ],
        "Place": [places.get(line.label, "") for line in found.lines],
        "p (Holm)": [_p_text(cell.p) for cell in cells],
    }
    always = {"Row", "Ours", "Runs"} | ({"Published", "Difference", "Verdict"} if compared else set())
    return _section(metric_label(metric), columns, always, tuple(_metric_notes(found, metric)))


def _section(
    title: str, columns: Mapping[str, Sequence[str]], always: set[str], notes: tuple[str, ...] = ()
) -> Section:
    """Make a section of columns; one that is not in ``always`` and has no text is left out."""
    told = {name: column for name, column in columns.items() if name in always or any(column)}
    return Section(title, tuple(told), tuple(zip(*told.values(), strict=True)), notes)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _mean(cell: Cell) -> str:
    return _number(cell.ours) + ("" if cell.std is None else f" ± {cell.std:.4f}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _p_text(p: float | None) -> str:
    return "" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _runs(line: Line) -> str:
    return f"{line.n_runs} of {line.wanted}" if line.n_runs < line.wanted else str(line.n_runs or "")


def _verdict(line: Line, cell: Cell, tolerance: float, *, compared: bool) -> str:
    """State how ours relates to the published number; ``compared``: the paper has a number in this table."""
    if line.state not in ("finished", "partial"):
        return line.state
    if not cell.verdict:
        word = "not published" if compared and cell.published is None else ""
    elif cell.verdict == "within":
        word = f"within {tolerance:g} %"
    else:
        word = f"{cell.verdict} by more than {tolerance:g} %"
    return f"{word}, preliminary" if line.state == "partial" and word else word


def _places(lines: Sequence[Line], metric: str) -> dict[str, str]:
    """Return ``published place → our place`` of rows with both numbers; equal numbers share a place."""
    both = [line for line in lines if None not in (line.cells[metric].published, line.cells[metric].ours)]
    if len(both) < 2 or any(line.panel for line in both):
        return {}
    sign = 1 if bigger_is_better(metric) else -1
    places = []
    for name in ("published", "ours"):
        values = [sign * getattr(line.cells[metric], name) for line in both]
        places.append([1 + sum(other > value for other in values) for value in values])
    return {line.label: f"{paper} → {here}" for line, paper, here in zip(both, *places, strict=True)}


def _metric_notes(found: Reproduction, metric: str) -> Iterator[str]:
    pairs = found.exchanged[metric]
    if pairs is not None:
        told = "; ".join(f"{worse} is better than {better} here" for better, worse in pairs)
        yield (
            f"Order of the rows: not as in the paper: {told}."
            if pairs
            else "Order of the rows: as in the paper."
        )
    if metric == found.table.metric and not found.lines[0].panel:
        yield from _lead_notes(found)


def _lead_notes(found: Reproduction) -> Iterator[str]:
    first, whole = found.lines[0].label, found.table.datasets[found.dataset].gain
    lead = None if found.gain is None else f"{found.gain:+.2f} % here"
    if lead is not None and found.published_gain is not None:
        lead = f"{found.published_gain:+.2f} % in the paper, {lead}"
    if lead is not None:
        yield f"Lead of {first} over the best other row that has runs: {lead}."
    if whole is not None and (lead is None or found.without_runs(found.table.metric)):
        yield f"Lead of {first} over the best other row of all rows in the paper: {whole:+.2f} %."


# ---- claims and settings


def _claims_section(found: Reproduction) -> Section:
    columns = {
        "Statement": [claim.text for claim, _ in found.claims],
        "Metric": [metric_label(claim.metric) for claim, _ in found.claims],
        "Here": [_here(claim, one) for claim, one in found.claims],
        "p (Holm)": [_p_text(max(one.p.values(), default=None)) for _, one in found.claims],
    }
    return _section("Statements of the paper", columns, {"Statement", "Metric", "Here"})


def _here(claim: Claim, found: Finding) -> str:
    """State whether a statement holds; where tests do not show it, that our means have its order or not."""
    if found.holds is None:
        return "not decided: a row is missing"
    word, n = "holds" if found.holds else "does not hold", found.n_compared
    if found.holds and n < len(claim.than):
        word += f" for {n} of {len(claim.than)} rows"
    n_open = len(found.weak) + len(found.untested)
    if n_open == 0 or (n_open < n and not found.holds):
        return word
    parts = [f"order {word}"]
    for reason, labels in (("not significant", found.weak), ("not tested", found.untested)):
        if labels:
            parts.append(reason if len(labels) == n else f"{reason} against {', '.join(labels)}")
    return ", ".join(parts)


def _settings_section(found: Reproduction) -> Section:
    shared = ", ".join(f"{key}={value}" for key, value in found.table.options.items())
    rows = [
        (
            line.label,
            line.model,
            ", ".join(f"{key}={value}" for key, value in line.options.items()) or "defaults",
            line.source,
        )
        for line in found.lines
    ]
    notes = (f"Options of every row: {shared}.",) if shared else ()
    return Section("Settings", ("Row", "Model", "Options", "Source"), tuple(rows), notes)


# ---- formats


def as_markdown(sections: Sequence[Section], found: Reproduction | None = None) -> str:
    """Write the sections, and our rows with their paired tests."""
    parts = []
    for number, section in enumerate(sections):
        parts.append(f"{'##' if number else '#'} {markdown_text(section.title)}")
        if section.header:
            parts.append(markdown_table(section.header, section.rows))
        parts += map(markdown_text, section.notes)
    text = "\n\n".join(parts) + "\n"
    if found is not None and found.comparison is not None:
        text += "\n" + markdown([found.comparison])
    return text


def as_latex(sections: Sequence[Section], found: Reproduction | None = None) -> str:
    r"""Write the sections as ``table`` environments; they need the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    first = sections[0].title
    for section in sections:
        if section.header:
            rows = [[latex_text(cell) for cell in row] for row in section.rows]
            caption = first if section.title == first else f"{first}: {section.title}"
            parts.append(latex_table(section.header, rows, caption))
        parts += ["% " + plain(note) for note in section.notes]
    text = "\n\n".join(parts) + "\n"
    if found is not None and found.comparison is not None:
        text += "\n" + latex([found.comparison])
    return text


def as_json(found: Reproduction) -> str:
    """Write all values, with the run folders that they come from."""
    table, facts = found.table, found.table.datasets[found.dataset]
    content: dict[str, Any] = {
        "schema": 1,
        "name": table.name,
        "file": table.file,
        **{key: getattr(table, key) for key in ("title", "paper", "place", "metric", "tolerance")},
        "dataset": found.dataset,
        "note": found.note,
        "complete": not found.unfinished,
        "missing": [line.label for line in found.unfinished],
        "options": {**found.file_values, **table.options, **found.changed},
        "rows": [asdict(line) for line in found.lines],
        "order": {
            metric: None if pairs is None else {"as_published": not pairs, "exchanged": pairs}
            for metric, pairs in found.exchanged.items()
        },
        "gain": {"published": facts.gain, "published_same_rows": found.published_gain, "ours": found.gain},
        "claims": [
            {
                **asdict(claim),
                "holds": one.holds,
                "not_significant": one.weak,
                "not_tested": one.untested,
                "p": one.p,
            }
            for claim, one in found.claims
        ],
        "remarks": table.remarks,
    }
    if found.comparison is not None:
        content["protocol"] = found.comparison.protocol
    return json.dumps(finite_json(content), indent=2, allow_nan=False, default=str) + "\n"


def print_sections(sections: Sequence[Section], text: str) -> None:
    """Print to standard output: tables on a terminal, the Markdown text in a pipe or a file."""
    console = open_console()
    if not console.file.isatty():
        print(text, end="")
        return
    for section in sections:
        if section.header:
            console.print(build_table(console, section.title, section.header, section.rows))
        else:
            console.print(Text(plain(section.title), style="bold", overflow="fold"))
        for note in section.notes:
            console.print(Text(plain(note), overflow="fold"))
        console.print()
