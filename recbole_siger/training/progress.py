"""One line an epoch: live on a terminal, plain in log files and where there is no terminal."""

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

__all__ = ["EpochRecord", "Progress", "peak_memory_mib"]

_log = logging.getLogger(__name__)

_STATUS = Path("/proc/self/status")


@dataclass
class EpochRecord:
    """What one epoch leaves in ``metrics.jsonl``; losses are means over batches, times are seconds."""

    epoch: int
    loss: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] | None = None
    best_epoch: int | None = None
    seconds_train: float = math.nan
    seconds_valid: float = 0.0
    peak_memory_mib: float = math.nan

    def line(self, metric: str, best_score: float | None) -> str:
        """Tell the epoch in one line."""
        parts = [f"epoch {self.epoch:4d}", *(f"{name} {value:.4g}" for name, value in self.loss.items())]
        if self.valid is not None:
            parts.append(f"valid {metric} {self.valid[metric]:.4f}")
        if self.best_epoch is not None and best_score is not None:
            parts.append(f"best {best_score:.4f} at {self.best_epoch}")
        seconds = self.seconds_train + self.seconds_valid
        return "  ".join([*parts, f"{seconds:.2f} s", f"{self.peak_memory_mib:.0f} MiB"])


def peak_memory_mib(device: torch.device | None = None) -> float:
    """Return the most memory held so far: of the device if it is a GPU, else of this process, in MiB."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # On Linux ru_maxrss begins at the peak of the process that started this one.
    if _STATUS.is_file() and (own := re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), flags=re.M)):
        return int(own[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


class Progress:
    """Shows the running epoch on a terminal and logs each finished one."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._shown = 0.0

    @contextmanager
    def epoch(self, epoch: int, n_batches: int) -> Iterator[Any]:
        """Yield a function to call after each batch with the terms of its loss."""
        if not self._console.is_terminal:
            yield lambda terms: None
            return
        done = 0

        def update(terms: Mapping[str, float]) -> None:
            nonlocal done
            done += 1
            if time.monotonic() - self._shown < 0.1:
                return
            self._shown = time.monotonic()
            losses = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
            live.update(Text(f"epoch {epoch:4d}  batch {done} of {n_batches}  {losses}", style="dim"))

        with Live(Text(f"epoch {epoch:4d}"), console=self._console, transient=True) as live:
            yield update

    def finished(self, record: EpochRecord, metric: str, best_score: float | None) -> None:
        """Log a finished epoch."""
        _log.info("%s", record.line(metric, best_score))
