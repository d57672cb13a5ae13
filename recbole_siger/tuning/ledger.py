"""The trials of a search, in memory and in the files ``trials.csv`` and ``trials.json``."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from recbole_siger.common.files import write_text
from recbole_siger.common.json_files import Form, read_json
from recbole_siger.errors import UserError
from recbole_siger.tuning.space import Point, point_id

__all__ = ["ENDED", "NEW_SEARCH", "Ledger", "Trial", "is_inside"]

NEW_SEARCH = "start a new search with another --out"
_FORM: Form = {
    "seconds": float,
    "trials": [
        {
            "id": str,
            "values": dict,
            "seed": int,
            "state": str,
            "score": (float, None),
            "best_epoch": (int, None),
            "epochs": int,
            "seconds": float,
            "reason": str,
            "folder": str,
        }
    ],
}

ENDED = ("finished", "pruned", "failed")
"""States of an ended trial; the other states are ``waiting`` and ``running``."""


@dataclass
class Trial:
    """One point with one seed.

    Attributes:
        id: Digest of point and seed; the same in every session.
        values: The point.
        seed: Seed of the run.
        state: ``waiting``, ``running``, ``finished``, ``pruned`` or ``failed``.
        score: Best validation score so far.
        best_epoch: Epoch of the best score, from 0.
        epochs: Number of trained epochs.
        seconds: Seconds spent in training and validation.
        reason: Reason of a failure, in one line.
        folder: Run folder of the last checkpoint, relative to the folder of the search.
    """

    id: str
    values: Point
    seed: int
    state: str = "waiting"
    score: float | None = None
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    folder: str = ""

    @property
    def ended(self) -> bool:
        """Whether the trial has ended."""
        return self.state in ENDED

    def told(self) -> str:
        """Return the point in one line."""
        pairs = self.values.items()
        return "  ".join(f"{key} {f'{v:.4g}' if isinstance(v, float) else v}" for key, v in pairs)


@dataclass
class Ledger:
    """All trials of a search by id, and the folder of their table; ``seconds`` is wall time."""

    folder: Path
    metric: str
    bigger: bool = True
    trials: dict[str, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    _written: float = 0.0

    def add(self, values: Point, seed: int) -> Trial:
        """Return the trial of a point and a seed; add the trial if it is new."""
        key = point_id(values, seed)
        return self.trials.setdefault(key, Trial(key, dict(values), seed))

    def counts(self) -> dict[str, int]:
        """Return the number of trials in each state, for the states that occur."""
        states = ("finished", "pruned", "failed", "running", "waiting")
        found = {state: sum(t.state == state for t in self.trials.values()) for state in states}
        return {state: n for state, n in found.items() if n}

    def best_trial(self) -> Trial | None:
        """Return the trial with the best score so far, in any state."""
        scored = [trial for trial in self.trials.values() if trial.score is not None]
        best = max if self.bigger else min
        return best(scored, key=lambda trial: trial.score or 0.0, default=None)

    def ranked(self) -> list[tuple[float, list[Trial]]]:
        """Return ``(mean score, trials)`` of each point that finished with every seed, best first.

        Equal means keep the order in which the points were added.
        """
        whole = [
            (sum(trial.score or 0.0 for trial in trials) / len(trials), trials)
            for trials in self._points()
            if all(trial.state == "finished" and trial.score is not None for trial in trials)
        ]
        return sorted(whole, key=lambda entry: -entry[0] if self.bigger else entry[0])

    def drop_seeds(self, first: int) -> int:
        """Prune the waiting seeds of each point whose trial with the seed ``first`` was pruned or failed.

        Returns:
            The number of pruned trials.
        """
        dropped = 0
        for trials in self._points():
            deciding = [t for t in trials if t.seed == first and t.state in ("pruned", "failed")]
            for trial in trials if deciding else ():
                if trial.state == "waiting":
                    trial.state = "pruned"
                    trial.reason = f"not trained: seed {first} of this point was {deciding[0].state}"
                    dropped += 1
        return dropped

    def revive(self) -> list[Trial]:
        """Let the pruned trials of the most promising point wait again, so that one point can win.

        This is the point with the most epochs over its seeds, then with the best mean score of its trained
        seeds. A point with a failed trial or without a score is left out.

        Returns:
            The trials that wait again; none if no point can be finished.
        """
        whole = [
            trials
            for trials in self._points()
            if all(trial.state in ("pruned", "finished") for trial in trials)
            and any(trial.score is not None for trial in trials)
        ]
        if not whole:
            return []
        sign = 1 if self.bigger else -1
        best = max(
            whole,
            key=lambda trials: (
                sum(trial.epochs for trial in trials),
                sign * fmean(trial.score for trial in trials if trial.score is not None),
            ),
        )
        revived = [trial for trial in best if trial.state == "pruned"]
        for trial in revived:
            trial.state, trial.reason = "waiting", ""
        return revived

    def _points(self) -> list[list[Trial]]:
        """Return the trials of each point, in the order in which they were added."""
        points: dict[str, list[Trial]] = {}
        for trial in self.trials.values():
            points.setdefault(point_id(trial.values, 0), []).append(trial)
        return list(points.values())

    # ---- files

    def write(self, *, every: float = 0.0) -> None:
        """Write ``trials.csv`` and ``trials.json``, unless written in the last ``every`` seconds."""
        if time.monotonic() - self._written < every:
            return
        write_text(self.folder / "trials.csv", self.table())
        whole = {"seconds": self.seconds, "trials": [asdict(trial) for trial in self.trials.values()]}
        write_text(self.folder / "trials.json", json.dumps(whole, indent=1) + "\n")
        self._written = time.monotonic()

    def table(self) -> str:
        """Return the trials as CSV, best score first."""
        keys = list(dict.fromkeys(key for trial in self.trials.values() for key in trial.values))
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        head = ["trial", "state", f"valid_{self.metric}", "best_epoch", "epochs", "seconds", "seed"]
        table.writerow([*head, *keys, "reason"])
        sign = -1 if self.bigger else 1
        for trial in sorted(
            self.trials.values(),
            key=lambda one: (one.score is None, 0.0 if one.score is None else sign * one.score),
        ):
            facts = [trial.id, trial.state, _cell(trial.score), _cell(trial.best_epoch), trial.epochs]
            values = [_cell(trial.values.get(key)) for key in keys]
            table.writerow([*facts, round(trial.seconds, 1), trial.seed, *values, trial.reason])
        return stream.getvalue()

    def load(self, *, retry: bool) -> None:
        """Load the trials of an earlier session.

        With ``retry``, running and failed trials wait again, and so do trials that :meth:`drop_seeds` pruned.

        Raises:
            UserError: If the file is missing or damaged.
        """
        file = self.folder / "trials.json"
        try:
            whole = read_json(file, _FORM, NEW_SEARCH)
        except FileNotFoundError:
            raise UserError(f"{file}: missing; this folder has no search to resume") from None
        known = {one.name for one in fields(Trial)}
        for number, row in enumerate(whole["trials"]):
            if odd := row.keys() - known:
                raise UserError(f"{file}: damaged: trials[{number}] has {min(odd)}; {NEW_SEARCH}")
            if row["folder"] and not is_inside(row["folder"]):
                raise UserError(f"{file}: damaged: trials[{number}].folder leaves the search; {NEW_SEARCH}")
        self.seconds, trials = float(whole["seconds"]), [Trial(**row) for row in whole["trials"]]
        for trial in trials:
            trial.id = point_id(trial.values, trial.seed)  # files of other versions may have other ids
            untrained = trial.state == "pruned" and trial.reason  # by drop_seeds
            if retry and (untrained or trial.state in ("running", "failed")):
                trial.state, trial.reason = "waiting", ""
            self.trials[trial.id] = trial


def is_inside(path: str) -> bool:
    """Return whether a path that a file names stays below the folder of the file.

    >>> is_inside("ray/session-1/a"), is_inside("../a"), is_inside("/a"), is_inside("a/../../b")
    (True, False, False, False)
    """
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _cell(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict) else value
