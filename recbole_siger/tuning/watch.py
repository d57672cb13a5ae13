"""Progress of a search: Ray's events update the ledger; users see a line or a live table."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recbole_siger.parallel.ray import failure_line
from recbole_siger.tuning.ledger import Ledger, Trial
from recbole_siger.tuning.trial import SCORE, Plan

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_BETWEEN_WRITES = 5.0
_SHOWN = 8


class Watch(Callback):
    """Update the ledger and its files, and show the progress.

    Args:
        ledger: The trials, including all points known at the start.
        plan: Values that all trials share.
        total: Total number of trials.
    """

    def __init__(self, ledger: Ledger, plan: Plan, total: int) -> None:
        self.ledger, self.plan, self.total = ledger, plan, total
        self._live: Live | None = None
        self._whole: set[str] = set()  # trials that reported their last epoch; Ray ends them later
        self._started = time.monotonic()
        self._before = {trial.id for trial in ledger.trials.values() if trial.ended}

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state: Ray stores callbacks, and the ledger belongs to this process."""
        return {}

    def _new(self, trial: Any) -> Trial | None:
        """Return our trial; None if the trial ended in an earlier session and only repeats its reports.

        ASHA may stop such a trial at an epoch whose rung had other trials in the earlier session.
        """
        ours = self.ledger.add(*self.plan.of(trial.config))
        return None if ours.id in self._before else ours

    def _n_ended(self) -> int:
        return sum(trial.ended for trial in self.ledger.trials.values())

    # ---- Ray's events

    def setup(self, *args: Any, **info: Any) -> None:
        """Start the live table."""
        console = Console(stderr=True)
        if console.is_terminal:
            self._live = Live(console=console, refresh_per_second=2, get_renderable=self._table)
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark the trial as running."""
        if (ours := self._new(trial)) is not None:
            ours.state = "running"

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch."""
        if (ours := self._new(trial)) is None:
            return
        ours.score, ours.best_epoch = float(result[SCORE]), int(result["best_epoch"])
        ours.epochs, ours.seconds = int(result["epochs"]), float(result["seconds"])
        if result["finished"]:
            self._whole.add(ours.id)
        self.ledger.write(every=_BETWEEN_WRITES)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any
    ) -> None:
        """Record the path of the run folder."""
        if (ours := self._new(trial)) is not None:
            ours.folder = Path(checkpoint.path).relative_to(self.ledger.folder.resolve()).as_posix()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end; a trial that did not report ``finished`` was pruned."""
        if (ours := self._new(trial)) is None:
            return
        ours.state = "finished" if ours.id in self._whole else "pruned"
        self._ended(ours)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the reason of a failure; the search continues."""
        if (ours := self._new(trial)) is not None:
            ours.state, ours.reason = "failed", _reason(trial)
            self._ended(ours)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Stop the live table."""
        self.close()

    def close(self) -> None:
        """Write the tables and stop the live table; a second call has no effect."""
        self.ledger.write()
        if self._live is not None:
            self._live.stop()
            self._live = None

    # ---- for people

    def _ended(self, trial: Trial) -> None:
        self.ledger.write(every=_BETWEEN_WRITES)
        told = trial.reason or f"{self.ledger.metric} {trial.score:.4f} at epoch {trial.best_epoch}"
        seed = f"  seed {trial.seed}" if len({t.seed for t in self.ledger.trials.values()}) > 1 else ""
        _log.info(
            "[%d/%d] %s after %d epochs: %s  (%s%s)",
            *(self._n_ended(), self.total, trial.state, trial.epochs, told, trial.told(), seed),
        )
        _log.info("        %s", self.summary())

    def summary(self) -> str:
        """Return one line: the best score so far, the number of trials by state, and the remaining time."""
        parts = []
        best = self.ledger.best_trial()
        if best is not None:
            parts.append(f"best valid {self.ledger.metric} {best.score:.4f} ({best.told()})")
        parts += [f"{n} {state}" for state, n in self.ledger.counts().items() if state != "waiting"]
        ended = self._n_ended()
        left, done = self.total - ended, ended - len(self._before)
        if left and done:
            minutes = (time.monotonic() - self._started) / done * left / 60
            parts.append(f"{left} trials left, about {minutes:.0f} min")
        return "; ".join(parts)

    def _table(self) -> Group:
        table = Table("trial", "state", f"valid {self.ledger.metric}", "best at", "epochs", "point", box=None)
        running = [trial for trial in self.ledger.trials.values() if trial.state == "running"]
        over = [trial for trial in self.ledger.trials.values() if trial.ended and trial.score is not None]
        over.sort(key=lambda trial: trial.score or 0.0, reverse=self.ledger.bigger)
        for trial in [*over[:_SHOWN], *running]:
            score = "" if trial.score is None else f"{trial.score:.4f}"
            at = "" if trial.best_epoch is None else str(trial.best_epoch)
            table.add_row(trial.id, trial.state, score, at, str(trial.epochs), trial.told())
        return Group(table, Text(self.summary()))


def _reason(trial: Any) -> str:
    try:
        return failure_line(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    except (OSError, TypeError):  # Ray wrote no error file
        return "failed without a message"
