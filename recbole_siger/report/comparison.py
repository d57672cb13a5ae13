"""Finished runs side by side: means over seeds, and paired tests of the first against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any, Literal

import numpy as np
import pandas as pd

from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import bigger_is_better
from recbole_siger.evaluation.protocol import needs_one_seed
from recbole_siger.evaluation.significance import PairedResult, Values, compare_paired, holm, smallest_p
from recbole_siger.options.params import build_params, did_you_mean
from recbole_siger.registry import short_name
from recbole_siger.report.protocols import check_protocols
from recbole_siger.runs.folder import RunFolder

__all__ = [
    "Comparison",
    "Entry",
    "Row",
    "RowTest",
    "TableParams",
    "check_columns",
    "check_sample_size",
    "compare_entries",
    "table_params",
]

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class TableParams:
    """How a table is made.

    Attributes:
        stat: The paired test; ``none`` for a table without tests.
        correct: Correction over all rows tested on one metric.
        over: What is paired: users, each with the mean over its seeds, or seeds.
        allow_mixed: Whether the table may have runs of other protocols, marked and not tested.
        columns: Metrics shown, by default Recall and NDCG at every cut-off. A metric without a value per
            user, such as ``recall@20[cold]``, is not tested over users.
    """

    stat: Literal["wilcoxon", "t-test", "none"] = "wilcoxon"
    correct: Literal["holm", "none"] = "holm"
    over: Literal["users", "seeds"] = "users"
    allow_mixed: bool = False
    columns: tuple[str, ...] | None = None


def table_params(values: Mapping[str, Any]) -> TableParams:
    """Make the parameters of a table from the command line.

    Raises:
        UserError: For a value that an option does not accept, or a column that is given twice.
    """
    known = asdict(TableParams())
    params = build_params(TableParams, {**known, **values}, dict.fromkeys(values, "command line"))
    names = [name.lower() for name in params.columns or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"command line: --columns={','.join(names)}: {twice} is given twice; keep one")
    return params


@dataclass(frozen=True)
class Entry:
    """What a row is made of: its finished runs, one per seed, and one line for each run that failed."""

    label: str
    runs: tuple[RunFolder, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowTest:
    """A paired test of the first row against this row, with p corrected for the number of rows."""

    result: PairedResult
    p_corrected: float


@dataclass(frozen=True)
class Row:
    """One model or variant.

    Attributes:
        label: Name of the row.
        seeds: Seeds of the runs, ascending.
        protocols: Protocol ids of the runs.
        mean: Mean over seeds of each test metric.
        std: Standard deviation over seeds (n - 1); None for one seed.
        valid: Mean over seeds of each validation metric.
        n_parameters: Trained parameters.
        seconds_per_epoch: Mean over seeds, validation included.
        peak_memory_mib: Largest of all seeds.
        runs: Run folders.
        seedless: Whether every seed gives this row's result.
        failure: The reason if there are no numbers; else empty.
        mixed: Whether the protocol differs from the protocol of the first row.
        tests: For each metric, the first row against this row.
        facts: Cells of the columns that ``Comparison.facts`` names.
        reference: Whether the row is a value to compare with, such as chance: not ranked, not tested.
    """

    label: str
    seeds: tuple[int, ...] = ()
    protocols: tuple[str, ...] = ()
    mean: Mapping[str, float] = field(default_factory=dict)
    std: Mapping[str, float | None] = field(default_factory=dict)
    valid: Mapping[str, float] = field(default_factory=dict)
    n_parameters: int | None = None
    seconds_per_epoch: float | None = None
    peak_memory_mib: float | None = None
    runs: tuple[str, ...] = ()
    seedless: bool = False
    failure: str = ""
    mixed: bool = False
    tests: Mapping[str, RowTest] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False


@dataclass(frozen=True)
class Comparison:
    """A table: the first row is tested against the others.

    Attributes:
        title: What it compares.
        dataset: Dataset name.
        rows: In the order of the command.
        columns: Metrics, as in ``results.json``.
        selection: The metric that selected the epochs, if all rows agree; its tests are printed.
        params: How the table was made.
        protocol: Name, id and facts of the first row's protocol.
        improvement: Whether the other rows are baselines, so that the first row is compared with the best.
        facts: Names of columns of text, shown after the seeds.
        remarks: Notes that come before the others.
    """

    title: str
    dataset: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    selection: str
    params: TableParams
    protocol: Mapping[str, Any]
    improvement: bool = True
    facts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def ranked(self, column: str) -> list[Row]:
        """Return the rows that have numbers under the first row's protocol, best first."""
        rows = [row for row in self.rows if not (row.failure or row.mixed or row.reference)]
        sign = -1 if bigger_is_better(column) else 1
        return sorted(rows, key=lambda row: sign * row.mean[column])

    def strongest(self, column: str) -> Row | None:
        """Return the best of the other rows; None if the first row failed or there is no other."""
        if self.rows[0].failure:
            return None
        return next((row for row in self.ranked(column) if row is not self.rows[0]), None)


def check_sample_size(n: int, params: TableParams, n_tests: int = 1) -> None:
    """Refuse a sample that is too small for any significant result.

    Args:
        n: Number of pairs.
        params: The test and its correction.
        n_tests: Number of rows that are tested. Holm multiplies the smallest p-value by it.

    Raises:
        UserError: With the sample size that is needed.
    """
    level = SIGNIFICANT / (max(n_tests, 1) if params.correct == "holm" else 1)
    if params.stat == "none" or smallest_p(n, params.stat) < level:
        return
    needed = next(m for m in count(1) if smallest_p(m, params.stat) < level)
    rows = f" for one of {n_tests} rows" if params.correct == "holm" and n_tests > 1 else ""
    fix = f"--seeds={needed} or more, or --over=users" if params.over == "seeds" else "a larger dataset"
    raise UserError(
        f"--stat={params.stat}: a test over {params.over} with n={n} cannot give p < {SIGNIFICANT}{rows}; "
        f"n={needed} can: use {fix}"
    )


def check_columns(asked: Sequence[str], shared: Sequence[str]) -> None:
    """Refuse columns that are not metrics of every run.

    Args:
        asked: Names as typed.
        shared: Metrics that all runs have, in lower case.

    Raises:
        UserError: With the name and the closest metric.
    """
    for name in asked:
        if name.lower() not in shared:
            hint = did_you_mean(name, shared) or f"; there are {', '.join(shared)}"
            raise UserError(f"--columns: {name!r} is not a metric of every run{hint}")


def compare_entries(
    title: str,
    entries: Sequence[Entry],
    params: TableParams,
    *,
    improvement: bool = True,
    mixable: bool = True,
) -> Comparison:
    """Put entries side by side.

    Args:
        title: What the table compares.
        entries: The first is tested against the others.
        params: How the table is made.
        improvement: Whether the others are baselines, and not variants of the first.
        mixable: Whether the command has the option ``--allow_mixed``.

    Raises:
        UserError: For runs on different datasets or under different protocols, an unknown column, or a
            sample too small for the test.
    """
    results = {e.label: [run.read_results() for run in e.runs] for e in entries if e.runs and not e.failures}
    if not results:
        return Comparison(title, "", tuple(map(_failed_row, entries)), (), "", params, {})
    datasets = sorted({r["dataset"] for of_entry in results.values() for r in of_entry})
    if len(datasets) > 1:
        raise UserError(f"runs on different datasets ({', '.join(datasets)}) do not share a table")
    mixed = check_protocols(results, allow_mixed=params.allow_mixed, mixable=mixable)
    columns = _columns(results, params.columns)
    rows = [
        replace(_row(entry, results[entry.label], columns), mixed=entry.label in mixed)
        if entry.label in results
        else _failed_row(entry)
        for entry in entries
    ]
    if params.stat != "none" and not rows[0].failure:
        rows = _with_tests(entries, rows, results, columns, params)
    first = next(iter(results.values()))[0]
    protocol = {key: first.get(key) for key in ("protocol", "protocol_id", "protocol_facts")}
    chosen = _selection(entries, columns, rows)
    return Comparison(title, datasets[0], tuple(rows), columns, chosen, params, protocol, improvement)


def _failed_row(entry: Entry) -> Row:
    n_runs = len(entry.runs) + len(entry.failures)
    return Row(entry.label, failure=f"{len(entry.failures)} of {n_runs} failed: {'; '.join(entry.failures)}")


def _row(entry: Entry, results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Row:
    def values(part: str, name: str) -> Values:
        return np.array([result[part][name] for result in results], dtype=np.float64)

    several, config = len(results) > 1, entry.runs[0].read_config()
    return Row(
        label=entry.label,
        seeds=tuple(sorted(result["seed"] for result in results)),
        protocols=tuple(dict.fromkeys(result["protocol_id"] for result in results)),
        mean={name: float(values("test", name).mean()) for name in columns},
        std={name: float(values("test", name).std(ddof=1)) if several else None for name in columns},
        valid={
            name: float(values("valid", name).mean())
            for name in columns
            if all(name in result["valid"] for result in results)
        },
        n_parameters=results[0]["n_parameters"],
        seconds_per_epoch=float(np.mean([result["seconds_per_epoch"] for result in results])),
        peak_memory_mib=float(max(result["peak_memory_mib"] for result in results)),
        runs=tuple(str(run.path) for run in entry.runs),
        seedless="eval_args" in config and needs_one_seed(short_name(config["model"]), config),
    )


def _columns(
    results: Mapping[str, Sequence[Mapping[str, Any]]], asked: Sequence[str] | None
) -> tuple[str, ...]:
    tests = [result["test"] for of_entry in results.values() for result in of_entry]
    shared = [name for name in tests[0] if all(name in test for test in tests)]
    if asked is None:
        whole = [name for name in shared if "[" not in name]  # not of cold or warm items alone
        if not whole:
            raise UserError(
                "runs without a test metric in common do not share a table; compare runs of one topk"
            )
        return tuple([name for name in whole if name.split("@")[0] in ("recall", "ndcg")] or whole[:1])
    check_columns(asked, shared)
    return tuple(name.lower() for name in asked)


def _selection(entries: Sequence[Entry], columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the metric whose tests are printed: the one that selected epochs, or the first with tests."""
    chosen = {str(run.read_config().get("valid_metric", "")).lower() for e in entries for run in e.runs}
    tested = [name for name in columns if any(name in row.tests for row in rows)] or columns
    return next(iter(chosen)) if len(chosen) == 1 and chosen <= set(tested) else tested[0]


# ---- tests


def _with_tests(
    entries: Sequence[Entry],
    rows: list[Row],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Sequence[str],
    params: TableParams,
) -> list[Row]:
    """Test the first row against each other row; the tests of one metric are one family."""
    assert params.stat != "none"
    others = [i for i, row in enumerate(rows) if i and not row.failure and not row.mixed]
    sample = _by_user if params.over == "users" else _by_seed
    tables = {i: sample(entries[i], results[rows[i].label], columns) for i in (0, *others)}
    if params.over == "seeds":
        tables = _for_each_seed(tables, rows)
    found: dict[int, dict[str, RowTest]] = {i: {} for i in others}
    for column in tables[0] if others else ():
        pairs = []
        for i in others:
            _check_same(tables[0], tables[i], rows[0].label, rows[i].label, params, len(others))
            pairs.append(
                compare_paired(tables[0][column].to_numpy(), tables[i][column].to_numpy(), params.stat)
            )
        p_values = np.array([pair.p for pair in pairs])
        corrected = holm(p_values) if params.correct == "holm" else p_values
        for i, pair, p in zip(others, pairs, corrected, strict=True):
            found[i][column] = RowTest(pair, float(p))
    return [replace(row, tests=found[i]) if i in found else row for i, row in enumerate(rows)]


def _by_user(entry: Entry, results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return each user's mean over the seeds, by raw token, of the metrics that have a value per user."""
    users = pd.concat([run.read_users() for run in entry.runs])
    return users.groupby("user_id", sort=True)[[name for name in columns if name in users]].mean()


def _by_seed(entry: Entry, results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return the test metrics by seed."""
    values = {result["seed"]: [result["test"][name] for name in columns] for result in results}
    return pd.DataFrame.from_dict(values, orient="index", columns=list(columns)).sort_index()


def _for_each_seed(tables: dict[int, pd.DataFrame], rows: Sequence[Row]) -> dict[int, pd.DataFrame]:
    """Repeat the values of a model that ran once because no seed changes its result."""
    most = max(tables.values(), key=len).index
    return {
        i: pd.DataFrame(np.repeat(table.to_numpy(), len(most), axis=0), most, table.columns)
        if len(table) == 1 and rows[i].seedless
        else table
        for i, table in tables.items()
    }


def _check_same(
    one: pd.DataFrame, other: pd.DataFrame, label: str, other_label: str, params: TableParams, n_tests: int
) -> None:
    check_sample_size(len(one), params, n_tests)
    if not one.index.equals(other.index):
        raise UserError(f"{label} and {other_label} were evaluated on other {params.over}; nothing to pair")
