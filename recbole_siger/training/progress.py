"""One line for each epoch, at most 100 columns wide; a terminal also shows the running epoch's batches."""

from __future__ import annotations

import logging
import math
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = [
    "WIDTH",
    "EpochRecord",
    "Progress",
    "Schedule",
    "Standing",
    "peak_memory_mib",
    "shown_seconds",
    "shown_span",
]

_log = logging.getLogger(__name__)

_STATUS = Path("/proc/self/status")


WIDTH = 100
"""Largest width of an epoch's line, for scores in [-1, 10) and epochs below 10,000."""

_NAME = 10  # characters of the validation metric's name
_UNITS = (("s", 1), ("min", 60), ("h", 3600), ("d", 86400))


@dataclass
class EpochRecord:
    """The line of one epoch in ``metrics.jsonl``; losses are means over batches, times are seconds."""

    epoch: int
    loss: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] | None = None
    best_epoch: int | None = None
    seconds_train: float = math.nan
    seconds_valid: float = 0.0
    peak_memory_mib: float = math.nan

    @property
    def seconds(self) -> float:
        """Seconds of training and validation."""
        return self.seconds_train + self.seconds_valid

    def details(self) -> str:
        """Return the loss terms and the memory in one line, for the log file."""
        terms = (f"{name} {value:.4g}" for name, value in self.loss.items())
        return "  ".join([f"epoch {self.epoch:4d}", *terms, f"{self.peak_memory_mib:.0f} MiB"])


@dataclass(frozen=True)
class Schedule:
    """The end of training.

    Attributes:
        epochs: Largest number of epochs.
        eval_step: Epochs from one validation to the next; 0 without validation.
        stopping_step: Number of validations without an improvement after which training continues.
        min_epochs: Number of epochs whose validations do not count.
    """

    epochs: int
    eval_step: int
    stopping_step: int
    min_epochs: int

    def epochs_left(self, epoch: int, used: int) -> tuple[int, int]:
        """Return the smallest and the largest number of epochs that follow ``epoch``.

        The smallest number holds if no later validation is an improvement, the largest if training never
        stops early.

        Args:
            epoch: The last finished epoch.
            used: Number of validations without an improvement up to then.

        >>> Schedule(epochs=100, eval_step=1, stopping_step=20, min_epochs=0).epochs_left(30, 7)
        (14, 69)
        """
        most, wanted = self.epochs - (epoch + 1), self.stopping_step + 1 - used
        if wanted <= 0:
            return 0, 0
        start = max(epoch + 1, self.min_epochs)
        stop = (start // self.eval_step + wanted) * self.eval_step
        return min(stop - (epoch + 1), most), most

    @property
    def all_epochs(self) -> tuple[int, int]:
        """Return the smallest and the largest number of epochs of a whole training.

        The smallest number holds if only the first validation is an improvement. Without validation, both
        numbers are ``epochs``.

        >>> Schedule(epochs=100, eval_step=1, stopping_step=20, min_epochs=0).all_epochs
        (22, 100)
        """
        if self.eval_step < 1:
            return self.epochs, self.epochs
        first = min(self.eval_step, self.epochs)
        return first + self.epochs_left(first - 1, 0)[0], self.epochs


@dataclass(frozen=True)
class Standing:
    """The state of a training after an epoch.

    Attributes:
        metric: Name of the validation metric.
        change: Difference to the previous validation score; None without one.
        best_score: The best validation score; None before the first.
        patience: Number of validations without an improvement, and the allowed number; None without
            validation.
        seconds_left: Smallest and largest number of seconds until training ends, without the test: the
            epochs of :meth:`Schedule.epochs_left` times the mean seconds of an epoch.
    """

    metric: str
    change: float | None = None
    best_score: float | None = None
    patience: tuple[int, int] | None = None
    seconds_left: tuple[float, float] = (0.0, 0.0)

    def line(self, record: EpochRecord) -> str:
        """Return the line of an epoch, at most :data:`WIDTH` columns wide.

        ``left 12 min-34 h`` means: 12 minutes if no later validation is an improvement, 34 hours if training
        never stops early.
        """
        parts = [f"epoch {record.epoch:4d}"]
        if record.valid is not None:
            score = f"{_short_name(self.metric)} {_number(record.valid[self.metric])}"
            parts.append(score if self.change is None else f"{score} {_number(self.change, '+')}")
        if record.best_epoch is not None and self.best_score is not None:
            parts.append(f"best {_number(self.best_score)} at {record.best_epoch}")
        if self.patience is not None:
            parts.append("patience {}/{}".format(*self.patience))
        parts.append(f"{shown_seconds(record.seconds)} s")
        if self.seconds_left[1] > 0:
            parts.append(f"left {shown_span(*self.seconds_left)}")
        return "  ".join(parts)


def _short_name(metric: str) -> str:
    return metric if len(metric) <= _NAME else metric.partition("@")[0][:_NAME]


def _number(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.4g}"


def shown_seconds(seconds: float) -> str:
    """Write seconds with two decimals below 10, with one below 100, else with none."""
    return f"{seconds:.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f}"


def shown_span(least: float, most: float) -> str:
    """Write two durations in whole units, rounded up.

    >>> shown_span(700.0, 3000.0), shown_span(40.0, 7201.0), shown_span(60.0, 60.0)
    ('12-50 min', '40 s-3 h', '60 s')
    """
    (few, unit), (many, large) = (_duration(seconds) for seconds in (least, most))
    if (few, unit) == (many, large):
        return f"{few} {unit}"
    return f"{few}-{many} {unit}" if unit == large else f"{few} {unit}-{many} {large}"


def _duration(seconds: float) -> tuple[int, str]:
    """Round a duration up to whole seconds below 90, else minutes below 90, hours below 90, or days."""
    unit, size = next((one for one in _UNITS[:-1] if seconds < 90 * one[1]), _UNITS[-1])
    return math.ceil(seconds / size), unit


def peak_memory_mib(device: torch.device | None = None) -> float:
    """Return the peak of memory so far, in MiB: of the device if it is a GPU, else of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # On Linux ru_maxrss begins at the peak of the process that started this process.
    if _STATUS.is_file() and (own := re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), flags=re.M)):
        return int(own[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux


class Progress:
    """Show the running epoch on a terminal and log each finished epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._shown = 0.0

    @contextmanager
    def epoch(self, epoch: int, n_batches: int) -> Iterator[Any]:
        """Yield a function to call after each step with its loss terms, and auxiliary=True if it is such."""
        if not self._console.is_terminal:
            yield lambda terms, auxiliary=False: None
            return
        done = {True: 0, False: 0}

        def update(terms: Mapping[str, float], auxiliary: bool = False) -> None:
            done[auxiliary] += 1
            if time.monotonic() - self._shown < 0.1:
                return
            self._shown = time.monotonic()
            losses = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
            step = f"auxiliary step {done[True]}" if auxiliary else f"batch {done[False]} of {n_batches}"
            live.update(Text(f"epoch {epoch:4d}  {step}  {losses}", style="dim"))

        with Live(Text(f"epoch {epoch:4d}"), console=self._console, transient=True) as live:
            yield update

    def finished(self, record: EpochRecord, standing: Standing) -> None:
        """Log a finished epoch: its line, and its loss terms at level DEBUG, which only files keep."""
        _log.info("%s", standing.line(record))
        _log.debug("%s", record.details())
