"""Finish a list of runs: re-use the finished, continue the interrupted, start the missing.

Each run has a process of its own, so its peak of memory is its own, and a crash stops no other run.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_siger.common.locks import LOCK, waiting_for
from recbole_siger.config import Config
from recbole_siger.data.files import DataFiles
from recbole_siger.data.fingerprint import protocol_facts
from recbole_siger.errors import UserError
from recbole_siger.evaluation.protocol import needs_one_seed, protocol_id
from recbole_siger.registry import short_name
from recbole_siger.runs.claim import names_in
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.children import Children, Report, running_children, silent
from recbole_siger.studies.reuse import config_hash, folders_by_hash, why_not_current

__all__ = [
    "Failure",
    "RunSpec",
    "complete_runs",
    "config_hash",
    "expected_results",
    "one_seed_is_enough",
    "stored_runs",
    "tested_metrics",
]


@dataclass(frozen=True)
class RunSpec:
    """One run to be finished.

    Attributes:
        model: Model name.
        dataset: Dataset name.
        seed: Seed of the run.
        options: Values, or text as typed on a command line.
        files: Configuration files.
        label: Name of the row or variant that the run belongs to, for progress lines only.
    """

    model: str
    dataset: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Name of the run in progress lines.

        >>> [RunSpec("SIGER", "toy", 3, label=label).name for label in ("", "ablation=mp", "SIGER/MP")]
        ['SIGER seed 3', 'SIGER ablation=mp seed 3', 'SIGER/MP seed 3']
        """
        model = short_name(self.model)
        named = self.label if self.label.startswith(model) else f"{model} {self.label}".rstrip()
        return f"{named} seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and the reason in one line."""

    spec: RunSpec
    reason: str


def one_seed_is_enough(spec: RunSpec) -> bool:
    """Tell whether every seed of a run gives the same result."""
    return needs_one_seed(short_name(spec.model), _config(spec))


def tested_metrics(spec: RunSpec) -> list[str]:
    """Return the names of the test metrics that a run will have."""
    return _config(spec).tested_metrics()


def expected_results(spec: RunSpec) -> dict[str, Any]:
    """Return what is known of ``results.json`` before a run; checksums of the data are not."""
    facts = protocol_facts(_config(spec), dict.fromkeys(("train", "valid", "test"), ""))
    return {"seed": spec.seed, "protocol_id": protocol_id(facts), "protocol_facts": facts}


Outcome = RunFolder | Failure


def _nothing(spec: RunSpec, outcome: Outcome) -> None:
    """Do nothing with an outcome."""


def complete_runs(
    specs: Sequence[RunSpec],
    *,
    runs_dir: str | Path = "runs",
    jobs: int = 1,
    report: Report = print,
    also: Sequence[str | Path] = (),
    ended: Callable[[RunSpec, Outcome], None] = _nothing,
    children: Callable[[], AbstractContextManager[Children]] = running_children,
) -> list[Outcome]:
    """Return a finished run folder, or the failure, for each of ``specs``, in their order.

    A finished run below ``<runs_dir>/<dataset>``, or the winner of a search there, is re-used if its
    configuration has the same hash, this version of the package made it, today's evaluation has its
    ``protocol_id``, and the data have not changed since. An unfinished run is resumed. Equal specs are run
    once.

    Args:
        specs: The runs to be finished.
        runs_dir: Folder in which run folders are looked for and made.
        jobs: Runs at a time, >= 1.
        report: Receives each line of progress.
        also: Further folders in which finished runs are looked for; see :func:`stored_runs`.
        ended: Called in this thread for each of ``specs`` as soon as its run has ended.
        children: Starts the runs; by default processes of this machine.

    Raises:
        UserError: For a bad configuration, before any run starts.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs}: expected a number in [1, inf)")
    plans = _planned(specs, Path(runs_dir), also, report)
    distinct: dict[str, _Plan] = {}
    for plan in plans:
        distinct.setdefault(plan.hash, plan)
    outcomes: dict[str, Outcome] = {}

    def hear(key: str, outcome: Outcome) -> None:
        outcomes[key] = outcome
        for plan in plans:
            if plan.hash == key:
                ended(plan.spec, outcome)

    with children() as started:
        _run_all(distinct, started, jobs, hear)
    return [outcomes[plan.hash] for plan in plans]


def _run_all(
    plans: Mapping[str, _Plan], children: Children, jobs: int, hear: Callable[[str, Outcome], None]
) -> None:
    """Complete the plans: first those with a finished run, then those that were begun.

    An error or an interrupt stops every child.
    """
    numbered = [(number, key, plan) for number, (key, plan) in enumerate(plans.items(), start=1)]
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures: dict[Future[Outcome], str] = {}
            for number, key, plan in sorted(numbered, key=lambda one: one[2].left):
                head = f"[{number}/{len(plans)}] {plan.spec.name}"
                futures[pool.submit(plan.complete, children, head)] = key
            for future in as_completed(futures):
                hear(futures[future], future.result())
        except BaseException:
            children.stop()
            pool.shutdown(cancel_futures=True)
            raise


def stored_runs(
    specs: Sequence[RunSpec],
    *,
    runs_dir: str | Path = "runs",
    also: Sequence[str | Path] = (),
    report: Report = silent,
) -> list[RunFolder | None]:
    """Return for each of ``specs`` the folder that :func:`complete_runs` would find; None if there is none.

    The data of a finished run are not compared. A folder without ``results.json`` is a run to be continued.

    Args:
        specs: The runs.
        runs_dir: Folder in which run folders are looked for.
        also: Further folders in which finished runs are looked for: a run folder, or a folder with run
            folders at most three levels below.
        report: Receives one line for each folder that cannot be read.

    Raises:
        UserError: For a bad configuration, or a folder of ``also`` that does not exist.
    """
    found: list[RunFolder | None] = []
    for plan in _planned(specs, Path(runs_dir), also, report):
        usable = [run for run in plan.candidates if run.finished and not why_not_current(run, plan.config)]
        begun = [run for run in plan.candidates if not run.finished]
        found.append(next(iter([*usable, *begun]), None))
    return found


_REFUSED = 2  # exit code for bad input, such as data that are not those of the unfinished run

_BELOW = ("config.yaml", "*/config.yaml", "*/*/config.yaml", "*/*/*/config.yaml")


def _planned(
    specs: Sequence[RunSpec], runs_dir: Path, also: Sequence[str | Path], report: Report
) -> list[_Plan]:
    """Return the plan of each run with its candidates; of folders in ``also``, only finished runs count."""
    for folder in also:
        if not Path(folder).is_dir():
            raise UserError(f"--runs={folder}: no such folder; name a run folder, or a folder of run folders")
    data_files = DataFiles()
    plans = [_Plan(spec, runs_dir, data_files, report) for spec in specs]
    elsewhere = [folders_by_hash(Path(folder), report, *_BELOW) for folder in also]
    datasets = dict.fromkeys(spec.dataset for spec in specs)
    near = {dataset: folders_by_hash(runs_dir / dataset, report) for dataset in datasets}
    for plan in plans:
        own = near[plan.spec.dataset].get(plan.hash, [])
        far = [run for found in elsewhere for run in found.get(plan.hash, [])]
        finished = [run for run in far if run.finished]
        paths = {run.path.resolve() for run in own}
        plan.candidates = [*own, *(run for run in finished if run.path.resolve() not in paths)]
    return plans


def _config(spec: RunSpec) -> Config:
    return Config(spec.model, spec.dataset, spec.files, command_line={**spec.options, "seed": str(spec.seed)})


class _Plan:
    """How one run is finished."""

    def __init__(self, spec: RunSpec, runs_dir: Path, data_files: DataFiles, report: Report) -> None:
        self.spec = spec
        self.config = _config(spec)
        self.hash = config_hash(self.config.effective())
        name = f"{short_name(spec.model)}-{self.hash[:8]}-seed{spec.seed}"
        self.folder = runs_dir / spec.dataset / name
        self.candidates: list[RunFolder] = []
        self._data_files, self._report = data_files, report

    @property
    def left(self) -> int:
        """What is left to do, by the folders that were found: 0 for nothing, 1 for a part, 2 for all."""
        finished = [run.finished for run in self.candidates]
        return 0 if any(finished) else 1 if finished else 2

    def complete(self, children: Children, head: str) -> Outcome:
        """Find, resume or start the run; two campaigns that need the same run make it once."""
        lock = self.folder.with_name(f".{self.folder.name}{LOCK}")
        lock.parent.mkdir(parents=True, exist_ok=True)

        def waiting() -> None:
            self._report(f"{head}: waiting for the process that makes this run")

        with waiting_for(lock, waiting, lambda: children.stopped) as held:
            if not held:
                return Failure(self.spec, "interrupted")
            made = folders_by_hash(lock.parent, silent, f"{self.folder.name}*/config.yaml").get(self.hash, [])
            known = {run.path for run in made}
            self.candidates = [*made, *(run for run in self.candidates if run.path not in known)]
            return self._complete(children, head)

    def _complete(self, children: Children, head: str) -> Outcome:
        for run in self.candidates:
            if run.finished and self._is_current(run, children):
                self._report(f"{head}: finished before, {run.path}")
                return run
        begun = next((run for run in self.candidates if not run.finished), None)
        if begun is not None:
            if self._finished_elsewhere(begun, children, head):
                return begun
            self._report(f"{head}: continuing {begun.path}")
            code, complaint = self._run(begun, ["resume", str(begun.path), *self._found()], children)
            if code != _REFUSED or children.stopped:
                return self._outcome(begun, code, complaint, children, head)
            self._report(f"{begun.path}: not continued: {_reason(code, complaint)}")
        run = RunFolder(self._unused_folder())
        self._report(f"{head}: {run.path}")
        return self._outcome(run, *self._run(run, self._words(run.path), children), children, head)

    def _run(self, run: RunFolder, words: list[str], children: Children) -> tuple[int, str]:
        """Run a command; return its exit code and what it complained of."""
        before = self._data_files.digests(self.config)
        code, complaint = children.run(words, lambda line: self._report(f"{self.spec.name} | {line}"))
        if code == 0 and run.finished:
            self._keep_digests(run, before)
        return code, complaint

    def _outcome(self, run: RunFolder, code: int, complaint: str, children: Children, head: str) -> Outcome:
        if code == 0 and run.finished:
            return run
        failure = Failure(self.spec, _reason(code, complaint))
        if not children.stopped:
            self._report(f"{head}: failed: {failure.reason}")
        return failure

    def _finished_elsewhere(self, run: RunFolder, children: Children, head: str) -> bool:
        """Wait for a process that works on an unfinished run; return whether the run is then finished."""

        def waiting() -> None:
            self._report(f"{head}: waiting for the process that works on {run.path}")

        with waiting_for(run.file(LOCK), waiting, lambda: children.stopped):
            return run.finished

    def _unused_folder(self) -> Path:
        """Name a new folder; a run of other data or of another version keeps its own folder."""
        folder, number = self.folder, 2
        while names_in(folder):
            folder, number = self.folder.with_name(f"{self.folder.name}-{number}"), number + 1
        return folder

    def _words(self, run_dir: Path) -> list[str]:
        spec = self.spec
        options = {**spec.options, "seed": spec.seed, "run_dir": str(run_dir)}
        # JSON is YAML: the child reads each value in the type that it has here.
        texts = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items()]
        files = [f"--config_files={' '.join(spec.files)}"] if spec.files else []
        return ["run", f"--model={spec.model}", f"--dataset={spec.dataset}", *files, *texts]

    def _found(self) -> list[str]:
        """Return the options with which a run folder is opened: the folder of the data, model and GPUs."""
        folder = Path(self.config["feature_path"]).parent
        return [
            f"--data_path={folder}",
            f"--model={self.spec.model}",
            f"--gpu_id={self.config['gpu_id']}",
        ]

    def _keep_digests(self, run: RunFolder, before: Mapping[str, str]) -> None:
        """Store the checksums of the data files, unless a file changed during the run.

        The run itself may make feature files (the key ``prepare``).
        """
        after = self._data_files.digests(self.config)
        if not before.items() <= after.items():
            return
        try:
            run.write_data_files(after)
        except OSError as error:  # a folder that may only be read; the next campaign compares again
            self._report(f"{run.path}: data_files.json cannot be written: {error.strerror}")

    def _is_current(self, run: RunFolder, children: Children) -> bool:
        """Tell whether a finished run can be used again; report the reason if it cannot."""
        if reason := why_not_current(run, self.config):
            self._report(f"{run.path}: not used again: {reason}")
            return False
        today = self._data_files.digests(self.config)
        if not today or run.read_data_files() == today:  # without data files nothing can be compared
            return True
        self._report(f"{run.path}: its data files are unknown or have changed; comparing splits and features")
        words = ["evaluate", str(run.path), *self._found()]
        code, complaint = children.run(words, lambda line: None)
        if code == 0:
            self._keep_digests(run, today)
        elif not children.stopped:
            self._report(f"{run.path}: not used again: {_reason(code, complaint)}")
        return code == 0


def _reason(code: int, complaint: str) -> str:
    """Return in one line why a process ended."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] if code == 2 else []
    last = (errors or lines or [""])[-1].removeprefix("error: ")
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (
            "; out of memory?" if -code == signal.SIGKILL else ""
        )
    return last or f"ended with exit code {code}"
