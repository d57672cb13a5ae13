"""Finish a list of runs: re-use the finished, continue the interrupted, start the missing.

Each run has a process of its own, so that its peak of memory is its own and a crash ends nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recbole_siger.common.digests import canonical_digest
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.registry import short_name
from recbole_siger.runs.folder import RunFolder

__all__ = ["Failure", "RunSpec", "complete_runs", "config_hash", "needs_one_seed"]

Report = Callable[[str], None]

# RecBole's models that draw no random number: on one split every seed gives the same ranking.
_SEEDLESS = {"ADMMSLIM", "EASE", "ItemKNN", "Pop"}


@dataclass(frozen=True)
class RunSpec:
    """One run that is wanted; options are values, or text as typed on a command line."""

    model: str
    dataset: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What progress lines call it."""
        return f"{short_name(self.model)} seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that did not finish, and why, in one line."""

    spec: RunSpec
    reason: str


def config_hash(values: Mapping[str, Any], *, without: Sequence[str] = ()) -> str:
    """Return 16 hexadecimal digits for an effective configuration, without what changes no result.

    >>> config_hash({"lr": 1, "data_path": "a"}) == config_hash({"data_path": "b", "lr": 1})
    True
    """
    kept = {key: value for key, value in values.items() if key not in NO_EFFECT | set(without)}
    return canonical_digest(kept)


def needs_one_seed(spec: RunSpec) -> bool:
    """Say whether every seed gives the same result: neither the model nor the split draws anything."""
    config = _config(spec)
    return spec.model in _SEEDLESS and bool(
        config["benchmark_filename"] or config["eval_args"]["order"] == "TO"
    )


def complete_runs(
    specs: Sequence[RunSpec],
    *,
    runs_dir: str | Path = "runs",
    jobs: int = 1,
    report: Report = print,
) -> list[RunFolder | Failure]:
    """Return a finished run folder, or what went wrong, for each of ``specs``, in their order.

    A finished run below ``<runs_dir>/<dataset>``, or the winner of a search there, is re-used if its
    configuration has the same hash, it was made by this version of the package, and the data are those it was
    trained on. An unfinished one is resumed. Equal specs are run once.

    Args:
        specs: What is wanted.
        runs_dir: Where run folders are looked for and made.
        jobs: Runs at a time, >= 1.
        report: Takes each line of progress.

    Raises:
        UserError: For a bad configuration, before anything is started.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs}: expected a number in [1, inf)")
    plans = [_Plan(spec, Path(runs_dir)) for spec in specs]
    for dataset in {spec.dataset for spec in specs}:
        found = _folders_by_hash(Path(runs_dir) / dataset)
        for plan in plans:
            if plan.spec.dataset == dataset:
                plan.candidates = found.get(plan.hash, [])
    distinct = {plan.hash: plan for plan in plans}
    with _processes() as processes, ThreadPoolExecutor(jobs) as pool:
        futures: dict[str, Future[RunFolder | Failure]] = {}
        try:
            for number, (key, plan) in enumerate(distinct.items(), start=1):
                head = f"[{number}/{len(distinct)}] {plan.spec.name}"
                futures[key] = pool.submit(plan.complete, processes, report, head)
            return [futures[plan.hash].result() for plan in plans]
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _config(spec: RunSpec) -> Config:
    environment = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        return Config(
            spec.model, spec.dataset, spec.files, command_line={**spec.options, "seed": str(spec.seed)}
        )
    finally:  # RecBole's Config sets it for the process, and for those that it starts
        if environment is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = environment


def _folders_by_hash(folder: Path) -> dict[str, list[RunFolder]]:
    """Find run folders, newest first; one whose config.yaml is damaged is passed over."""
    files = [*folder.glob("*/config.yaml"), *folder.glob("tune-*/best-*/config.yaml")]
    files.sort(key=lambda file: -file.stat().st_mtime)
    found: dict[str, list[RunFolder]] = {}
    for run in (RunFolder(file.parent) for file in files):
        try:
            found.setdefault(config_hash(run.read_config()), []).append(run)
        except UserError:
            continue
    return found


class _Processes:
    """The running children; once stopped, no other starts."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def run(self, words: Sequence[str], report: Report) -> tuple[int, str]:
        """Run one command of the package, pass its lines on; return its exit code and its stderr."""
        command = [sys.executable, "-m", "recbole_siger.cli", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
            with self._lock:
                if self.stopped:
                    return 130, "interrupted"
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
                )
                self._running.add(process)
            assert process.stdout is not None
            for line in process.stdout:
                report(line.rstrip())
            code = process.wait()
            self._running.discard(process)
            complaints.seek(0)
            return code, complaints.read()

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


@contextmanager
def _processes() -> Iterator[_Processes]:
    """Hold the children; a SIGTERM to this process is an interrupt, so that none is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield _Processes()
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield _Processes()
    finally:
        signal.signal(signal.SIGTERM, before)


class _Plan:
    """How one run is finished."""

    def __init__(self, spec: RunSpec, runs_dir: Path) -> None:
        self.spec = spec
        self.config = _config(spec)
        self.hash = config_hash(self.config.effective())
        name = f"{short_name(spec.model)}-{self.hash[:8]}-seed{spec.seed}"
        self.folder = runs_dir / spec.dataset / name
        self.candidates: list[RunFolder] = []

    def complete(self, processes: _Processes, report: Report, head: str) -> RunFolder | Failure:
        """Find, resume or start the run."""
        for run in self.candidates:
            if run.file("results.json").exists() and self._is_current(run, processes, report):
                report(f"{head}: finished before, {run.path}")
                return run
        unfinished = [run for run in self.candidates if not run.file("results.json").exists()]
        if unfinished:
            run = unfinished[0]
            words = ["resume", str(run.path), *self._found()]
            report(f"{head}: continuing {run.path}")
        else:
            run = RunFolder(self._unused_folder())
            words = self._words(run.path)
            report(f"{head}: {run.path}")
        code, complaint = processes.run(words, lambda line: report(f"{self.spec.name} | {line}"))
        if code == 0 and run.file("results.json").exists():
            return run
        failure = Failure(self.spec, _reason(code, complaint))
        if not processes.stopped:
            report(f"{head}: failed: {failure.reason}")
        return failure

    def _unused_folder(self) -> Path:
        """Name a folder; a finished run of other data or of another version keeps its own."""
        folder, number = self.folder, 2
        while (folder / "config.yaml").exists():
            folder, number = self.folder.with_name(f"{self.folder.name}-{number}"), number + 1
        return folder

    def _words(self, run_dir: Path) -> list[str]:
        spec = self.spec
        options = {**spec.options, "seed": spec.seed, "run_dir": str(run_dir)}
        # JSON is YAML: a value arrives in the type that it has here.
        texts = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items()]
        files = [f"--config_files={' '.join(spec.files)}"] if spec.files else []
        return ["run", f"--model={spec.model}", f"--dataset={spec.dataset}", *files, *texts]

    def _found(self) -> list[str]:
        """Return the options with which a run folder is opened: where the data are, and the model."""
        folder = Path(self.config["feature_path"]).parent
        return [f"--data_path={folder}", f"--model={self.spec.model}"]

    def _is_current(self, run: RunFolder, processes: _Processes, report: Report) -> bool:
        """Say whether a finished run is of this version and of today's data."""
        try:
            made_by = run.read_results()["versions"]["recbole-siger"]
        except (UserError, KeyError):
            return False
        if made_by != version("recbole-siger"):
            return False
        made = run.file("digests.json").stat().st_mtime if run.file("digests.json").exists() else 0.0
        folders = {Path(self.config["data_path"]), Path(self.config["feature_path"])}
        data = [file for folder in folders for file in folder.glob(f"{self.spec.dataset}.*")]
        if all(file.stat().st_mtime <= made for file in data if file.suffix in (".inter", ".npy", ".ids")):
            return True
        report(f"{run.path}: data files are newer; comparing checksums")  # which evaluating does
        words = ["evaluate", str(run.path), *self._found()]
        return processes.run(words, lambda line: None)[0] == 0


def _reason(code: int, complaint: str) -> str:
    """Tell in one line why a process ended."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")] if code == 2 else []
    last = (told or lines or [""])[-1].removeprefix("error: ")
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (
            "; out of memory?" if -code == signal.SIGKILL else ""
        )
    return last or f"ended with exit code {code}"
