"""Published numbers and ours side by side: differences, verdicts, order of the rows, statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from statistics import fmean, stdev
from typing import Any, Literal

from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.report.comparison import SIGNIFICANT, Comparison, RowTest
from recbole_siger.reproduce.paper import Claim, PaperRow, PaperTable

__all__ = [
    "Cell",
    "Finding",
    "Line",
    "Reproduction",
    "RowRuns",
    "State",
    "exchanged_pairs",
    "join",
    "verdict_of",
]

State = Literal["finished", "partial", "missing", "failed", "skipped", "not available", "not asked"]


@dataclass(frozen=True)
class RowRuns:
    """The runs of a row.

    Attributes:
        row: The row.
        wanted: Number of runs that the row needs; 0 if the row is not run.
        results: Content of ``results.json`` of each finished run.
        folders: Folders of the finished runs.
        failures: One line for each failed run.
        why: Why the row is not run: a state, and a reason or an empty text; None if the row is run.
    """

    row: PaperRow
    wanted: int = 0
    results: Sequence[Mapping[str, Any]] = ()
    folders: Sequence[str] = ()
    failures: Sequence[str] = ()
    why: tuple[State, str] | None = None

    @property
    def state(self) -> State:
        """How far the row is."""
        if self.why is not None:
            return self.why[0]
        if len(self.results) == self.wanted:
            return "finished"
        if self.results:
            return "partial"
        return "failed" if self.failures else "missing"


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Attributes:
        published: Number of the paper; None if the paper states none.
        ours: Mean over the finished runs; None if there is none.
        std: Standard deviation over runs (n - 1); None for fewer than two runs.
        difference: Ours against the paper, in percent; None if a number is missing.
        verdict: ``within``, ``above`` or ``below`` the tolerance; empty if a number is missing.
        p: p value of the first row against this row, corrected over the rows; None without a test.
    """

    published: float | None = None
    ours: float | None = None
    std: float | None = None
    difference: float | None = None
    verdict: str = ""
    p: float | None = None


@dataclass(frozen=True)
class Finding:
    """What our rows say about a statement of the paper.

    Attributes:
        holds: Whether our means have the order of the statement; None if a row is missing.
        n_compared: Number of rows that decide: all other rows, or those against the statement.
        weak: Those of them whose test does not show this order.
        untested: Those of them without a test.
        p: p value of each test, corrected over the rows of the table or of the statement.
    """

    holds: bool | None
    n_compared: int = 0
    weak: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    p: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One row of the result.

    Attributes:
        label: Name of the row.
        model: Model name.
        panel: Panel of a figure; empty in a table.
        value: Value on the axis of the panel.
        state: How far the row is.
        reason: Why the row is not run, or the failures.
        n_runs: Finished runs.
        wanted: Runs that the row needs.
        options: Options of the row on this dataset.
        source: Where options and numbers come from.
        folders: Folders of the finished runs.
        cells: ``{metric: cell}``.
    """

    label: str
    model: str
    panel: str
    value: Any
    state: State
    reason: str
    n_runs: int
    wanted: int
    options: Mapping[str, Any]
    source: str
    folders: tuple[str, ...]
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Reproduction:
    """A table of a paper and our runs on one dataset.

    Attributes:
        table: What the paper states.
        dataset: Dataset name.
        lines: In the order of the file.
        exchanged: For each metric, the pairs of rows whose order differs from the order in the paper; None
            if fewer than two rows have both numbers.
        claims: The statements, each with what our rows say about it.
        gain: Lead of the first row over the best other row that has runs, on the main metric, in percent;
            None if unknown.
        published_gain: The same in the paper, over the same rows; None if a number is missing.
        changed: Options of the command line, which change every run.
        file_values: Values of the configuration files, for rows that do not state them.
        original_features: Whether the dataset is said to have the features of the paper.
        comparison: Our rows alone, with paired tests; None if there is no run.
    """

    table: PaperTable
    dataset: str
    lines: tuple[Line, ...]
    exchanged: Mapping[str, tuple[tuple[str, str], ...] | None]
    claims: tuple[tuple[Claim, Finding], ...]
    gain: float | None
    published_gain: float | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    file_values: Mapping[str, Any] = field(default_factory=dict)
    original_features: bool = False
    comparison: Comparison | None = None

    @property
    def note(self) -> str:
        """Nature of the data; empty for the features of the paper."""
        return "" if self.original_features else self.table.datasets[self.dataset].note

    def without_runs(self, metric: str) -> set[str]:
        """Return the rows without a number of ours."""
        return {line.label for line in self.lines if line.cells[metric].ours is None}

    @property
    def unfinished(self) -> list[Line]:
        """Rows that still lack runs."""
        return [line for line in self.lines if line.state in ("partial", "missing", "failed")]


def join(
    table: PaperTable,
    dataset: str,
    rows: Sequence[RowRuns],
    comparison: Comparison | None = None,
    *,
    claim_tests: Mapping[Claim, Comparison] | None = None,
    changed: Mapping[str, Any] | None = None,
    file_values: Mapping[str, Any] | None = None,
    original_features: bool = False,
) -> Reproduction:
    """Put published numbers and ours side by side.

    Args:
        table: What the paper states.
        dataset: A dataset of the table.
        rows: The runs of each row, in the order of the table.
        comparison: Our rows with tests of the first row.
        claim_tests: Tests of statements about another row, the better row first.
        changed: Options of the command line.
        file_values: Values of the configuration files.
        original_features: Whether the dataset is said to have the features of the paper.
    """
    lines = tuple(_line(table, dataset, runs, comparison) for runs in rows)
    published_gain, gain = _gains(lines, table.metric)
    return Reproduction(
        table=table,
        dataset=dataset,
        lines=lines,
        exchanged={metric: exchanged_pairs(lines, metric) for metric in table.metrics},
        claims=tuple(
            (claim, _finding(claim, lines, (claim_tests or {}).get(claim, comparison)))
            for claim in table.claims
            if dataset in claim.datasets
        ),
        gain=gain,
        published_gain=published_gain,
        changed=dict(changed or {}),
        file_values=dict(file_values or {}),
        original_features=original_features,
        comparison=comparison,
    )


def verdict_of(published: float | None, ours: float | None, tolerance: float) -> tuple[float | None, str]:
    """Return the difference in percent and the verdict.

    >>> verdict_of(0.1, 0.102, 3.0)[1], verdict_of(0.1, 0.09, 3.0)[1], verdict_of(None, 0.09, 3.0)
    ('within', 'below', (None, ''))
    """
    if not published or ours is None:
        return None, ""
    difference = 100 * (ours / published - 1)
    if abs(difference) <= tolerance + 1e-9:
        return difference, "within"
    return difference, "above" if difference > 0 else "below"


def _line(table: PaperTable, dataset: str, runs: RowRuns, comparison: Comparison | None) -> Line:
    row, setting = runs.row, runs.row.settings.get(dataset)
    tests: Mapping[str, Any] = {}
    if comparison is not None:
        tests = next((one.tests for one in comparison.rows if one.label == row.label), {})
    cells = {}
    for metric in table.metrics:
        values = [float(result["test"][metric]) for result in runs.results if metric in result["test"]]
        published = row.published.get(dataset, {}).get(metric)
        ours = fmean(values) if values else None
        difference, verdict = verdict_of(published, ours, table.tolerance)
        cells[metric] = Cell(
            published,
            ours,
            stdev(values) if len(values) > 1 else None,
            difference,
            verdict,
            tests[metric].p_corrected if metric in tests else None,
        )
    return Line(
        label=row.label,
        model=row.model,
        panel=row.panel,
        value=row.value,
        state=runs.state,
        reason=runs.why[1] if runs.why else "; ".join(runs.failures),
        n_runs=len(runs.results),
        wanted=runs.wanted,
        options={**row.options, **(setting.options if setting else {})},
        source=(setting.source if setting else "") or row.source,
        folders=tuple(runs.folders),
        cells=cells,
    )


def exchanged_pairs(lines: Sequence[Line], metric: str) -> tuple[tuple[str, str], ...] | None:
    """Return the pairs (better in the paper, better here) of rows of one panel.

    Rows with equal published numbers have no order.

    Args:
        lines: Rows; those without a published number or without a run are left out.
        metric: The metric.

    Returns:
        None if no pair of rows has both numbers.
    """
    both = [(line, *pair) for line in lines if (pair := _pair(line.cells[metric]))]
    sign = 1 if bigger_is_better(metric) else -1
    pairs, compared = [], 0
    for (one, published, ours), (other, their_published, their_ours) in permutations(both, 2):
        if one.panel == other.panel and sign * published > sign * their_published:
            compared += 1
            if sign * ours < sign * their_ours:
                pairs.append((one.label, other.label))
    return tuple(pairs) if compared else None


def _pair(cell: Cell) -> tuple[float, float] | None:
    """Return the published number and ours; None if a number is missing."""
    if cell.published is None or cell.ours is None:
        return None
    return cell.published, cell.ours


def _ours(lines: Sequence[Line], metric: str) -> dict[str, float]:
    found = {line.label: line.cells[metric].ours for line in lines}
    return {label: value for label, value in found.items() if value is not None}


def _finding(claim: Claim, lines: Sequence[Line], comparison: Comparison | None) -> Finding:
    """Compare a statement with our means and their tests. One row that is better is enough against it."""
    ours = _ours(lines, claim.metric)
    if claim.better not in ours:
        return Finding(None)
    sign = 1 if bigger_is_better(claim.metric) else -1
    there = [label for label in claim.than if label in ours]
    against = [label for label in there if sign * ours[label] >= sign * ours[claim.better]]
    left_out = {line.label for line in lines if line.state in ("skipped", "not available")}
    needed = [label for label in claim.than if label not in left_out]
    if not against and not (there and len(there) == len(needed)):
        return Finding(None)
    tests = {label: test for label, test in _tests(claim, comparison).items() if label in (against or there)}
    return Finding(
        not against,
        len(against or there),
        weak=tuple(
            label
            for label, test in tests.items()
            if test.p_corrected >= SIGNIFICANT or test.result.effect * (ours[claim.better] - ours[label]) <= 0
        ),
        untested=tuple(label for label in against or there if label not in tests),
        p={label: test.p_corrected for label, test in tests.items()},
    )


def _tests(claim: Claim, comparison: Comparison | None) -> dict[str, RowTest]:
    """Return the test of the statement's row against each other row; none if it is not the first row."""
    if comparison is None or comparison.rows[0].label != claim.better:
        return {}
    return {row.label: row.tests[claim.metric] for row in comparison.rows if claim.metric in row.tests}


def _gains(lines: Sequence[Line], metric: str) -> tuple[float | None, float | None]:
    """Return the lead of the first row over the best other row in the paper and here, over the same rows."""
    pairs = [_pair(line.cells[metric]) for line in lines if metric in line.cells]
    both = [pair for pair in pairs if pair]
    if len(both) > 1 and pairs[0]:
        published, ours = zip(*both, strict=True)
        return _lead(published, metric), _lead(ours, metric)
    if not pairs or lines[0].cells[metric].ours is None:
        return None, None
    return None, _lead([*_ours(lines, metric).values()], metric)


def _lead(values: Sequence[float], metric: str) -> float | None:
    """Return by how many percent the first value is better than the best of the others."""
    first, *others = values
    if not others:
        return None
    best, sign = (max(others), 1) if bigger_is_better(metric) else (min(others), -1)
    return sign * 100 * (first / best - 1) if best else None
