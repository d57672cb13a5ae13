"""Reproduce a table or figure of a paper: finish its runs and write published numbers beside ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from recbole_siger.common.files import check_output, write_text
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.report.comparison import Comparison, Entry, TableParams, compare_entries
from recbole_siger.report.figures import check_matplotlib, save_figure
from recbole_siger.reproduce.join import Reproduction, RowRuns, join
from recbole_siger.reproduce.maps import draw_maps, maps_of
from recbole_siger.reproduce.overlap import reproduce_overlap
from recbole_siger.reproduce.paper import Claim, PaperTable, read_paper
from recbole_siger.reproduce.pictures import draw_reproduction
from recbole_siger.reproduce.plan import (
    PlannedRow,
    Request,
    plan_rows,
    print_plan,
    report_progress,
    with_runs,
)
from recbole_siger.reproduce.writing import (
    as_json,
    as_latex,
    as_markdown,
    print_sections,
    sections_of,
    title_of,
)
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.campaign import Failure, RunSpec, complete_runs
from recbole_siger.studies.children import running_children
from recbole_siger.studies.remote import ray_children, room_for_runs

__all__ = ["reproduce"]


def reproduce(name: str, request: Request, *, dry_run: bool = False) -> int:
    """Reproduce a table or figure, and write Markdown, LaTeX, JSON and a picture.

    Finished runs are used again and interrupted runs are continued, as ``compare`` does. The text files are
    written again after each finished run; they name the runs that are missing. The paired tests and the
    picture are made when the command ends.

    Args:
        name: Name of a table of this package, or a YAML file of the user.
        request: What the command line asks for.
        dry_run: Whether the runs are only listed, with an estimate.

    Returns:
        1 if a run failed, else 0.

    Raises:
        UserError: For bad input, before any run starts, or if every run failed for one reason.
    """
    table = read_paper(name)
    dataset = _dataset(table, request.dataset)
    folder = Path(request.out or Path(request.runs_dir) / dataset / f"reproduce-{table.name}")
    check_output(folder / f"{table.name}.md", "--out" if request.out else "--runs_dir")
    if table.kind == "overlap":
        return reproduce_overlap(table, dataset, request, folder, dry_run=dry_run)
    planned = plan_rows(table, dataset, request)
    if dry_run:
        print_plan(planned, dataset, request)
        return 0
    progress = _Progress(table, dataset, request, planned, folder)
    try:
        _complete(planned, request, progress)
    finally:
        progress.finish()
    return int(progress.has_failures)


def _dataset(table: PaperTable, asked: str | None) -> str:
    known = [*table.datasets]
    if asked is None:
        if len(known) == 1:
            return known[0]
        raise UserError(f"command line: --dataset is missing; {table.name} has {', '.join(known)}")
    if asked not in known:
        hint = did_you_mean(asked, known) or f"; the datasets are {', '.join(known)}"
        raise UserError(f"command line: --dataset={asked}: not in {table.file}{hint}")
    return asked


def _complete(planned: Sequence[PlannedRow], request: Request, progress: _Progress) -> None:
    specs = [spec for one in planned for spec in one.specs]
    with ExitStack() as stack:
        jobs, children = request.jobs or 1, running_children
        if request.address is not None:
            cpus, gpus = request.cpus_per_run, request.gpus_per_run
            room, about = stack.enter_context(room_for_runs(request.address, cpus, gpus))
            jobs, children = request.jobs or room, partial(ray_children, cpus, gpus)
            report_progress(about)
        outcomes = complete_runs(
            specs,
            runs_dir=request.runs_dir,
            jobs=jobs,
            report=report_progress,
            also=request.runs,
            ended=progress.ended,
            children=children,
        )
    reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Failure)}
    if len(reasons) == 1 and all(isinstance(outcome, Failure) for outcome in outcomes):
        raise UserError(f"no run finished: {reasons.pop()}")  # such as a missing dataset


class _Progress:
    """The runs that have ended, and the files that are written from them."""

    def __init__(
        self,
        table: PaperTable,
        dataset: str,
        request: Request,
        planned: Sequence[PlannedRow],
        folder: Path,
    ) -> None:
        self._table, self._dataset, self._request = table, dataset, request
        self._planned, self._folder = planned, folder
        self._outcomes: dict[int, RunFolder | Failure] = {}  # by the identity of the spec

    @property
    def has_failures(self) -> bool:
        """Whether a run failed."""
        return any(isinstance(outcome, Failure) for outcome in self._outcomes.values())

    def ended(self, spec: RunSpec, outcome: RunFolder | Failure) -> None:
        """Store how a run ended, and write the partial table."""
        self._outcomes[id(spec)] = outcome
        if isinstance(outcome, RunFolder):
            self._write(self._found(tests=False))

    def finish(self) -> None:
        """Write all files and print the table, if a run is finished."""
        if not any(isinstance(outcome, RunFolder) for outcome in self._outcomes.values()):
            return
        found = self._found(tests=True)
        written = self._write(found)
        try:
            check_matplotlib()
        except UserError as error:
            print_line(f"no picture: {error}", sys.stderr)
        else:
            picture = draw_reproduction(found)
            written += self._save(picture, self._table.name)
            if self._table.item_map is not None:
                written += self._draw_map(found)
        sections = sections_of(found)
        print_sections(sections, as_markdown(sections, found))
        print_line(f"written: {', '.join(map(str, written))}", sys.stderr)

    def _save(self, picture: Any, name: str) -> list[Path]:
        paths = [self._folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
        for path in paths:
            save_figure(picture, path)
        return paths

    def _draw_map(self, found: Reproduction) -> list[Path]:
        """Write the picture of item embeddings, or report why there is none."""
        try:
            maps = maps_of(found)
        except UserError as error:
            print_line(f"no map: {error}", sys.stderr)
            return []
        title = f"{self._table.place}, {self._dataset}: items by category, t-SNE"
        return self._save(draw_maps(maps, title), f"{self._table.name}-map")

    def _write(self, found: Reproduction) -> list[Path]:
        sections = sections_of(found)
        texts = {
            "md": as_markdown(sections, found),
            "tex": as_latex(sections, found),
            "json": as_json(found),
        }
        paths = []
        for suffix, text in texts.items():
            paths.append(self._folder / f"{self._table.name}.{suffix}")
            write_text(paths[-1], text)
        return paths

    def _found(self, *, tests: bool) -> Reproduction:
        rows = [self._runs_of(one) for one in self._planned]
        comparison = self._comparison(rows, tests=tests)
        return join(
            self._table,
            self._dataset,
            rows,
            comparison,
            claim_tests=self._claim_tests(rows, comparison) if tests else None,
            changed=self._request.changed,
            file_values=self._request.file_values,
            original_features=self._request.original_features,
        )

    def _runs_of(self, planned: PlannedRow) -> RowRuns:
        outcomes = [self._outcomes.get(id(spec)) for spec in planned.specs]
        runs = [outcome for outcome in outcomes if isinstance(outcome, RunFolder)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        return with_runs(
            planned,
            [run.read_results() for run in runs],
            folders=[str(run.path) for run in runs],
            failures=[f"seed {one.spec.seed}: {one.reason}" for one in failed],
        )

    def _comparison(self, rows: Sequence[RowRuns], *, tests: bool) -> Comparison | None:
        """Put our rows side by side; the first row is tested against the others if its runs are there."""
        there = [runs for runs in rows if runs.results]
        if not there:
            return None
        entries = [_entry(runs) for runs in there]
        first = self._table.rows[0]
        tested = tests and there[0].row is first and not first.panel
        params = TableParams(
            stat="wilcoxon" if tested else "none", allow_mixed=True, columns=self._table.metrics
        )
        note = "" if self._request.original_features else self._table.datasets[self._dataset].note
        title = f"Our runs: {title_of(self._table, self._dataset, note)}"
        return compare_entries(title, entries, params)

    def _claim_tests(self, rows: Sequence[RowRuns], comparison: Comparison | None) -> dict[Claim, Comparison]:
        """Test the row of each statement against the rows that it names, if the table has no such tests."""
        there = {runs.row.label: _entry(runs) for runs in rows if runs.results}
        tested = comparison is not None and any(row.tests for row in comparison.rows)
        first, found = self._table.rows[0].label, {}
        for claim in self._table.claims:
            than = [there[label] for label in claim.than if label in there]
            if self._dataset not in claim.datasets or claim.better not in there or not than:
                continue
            if claim.better != first or not tested:
                params = TableParams(allow_mixed=True, columns=(claim.metric,))
                found[claim] = compare_entries(claim.text, [there[claim.better], *than], params)
        return found


def _entry(runs: RowRuns) -> Entry:
    return Entry(runs.row.label, tuple(map(RunFolder, runs.folders)))
