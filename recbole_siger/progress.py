"""One line an epoch: live on a terminal, plain in log files and where there is no terminal."""

from __future__ import annotations

import fcntl
import logging
import math
import re
import resource
import sys
import threading
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

from recbole_siger.errors import UserError

__all__ = ["EpochRecord", "Progress", "following", "logging_to", "peak_memory_mib"]

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


@contextmanager
def logging_to(file: Path | None) -> Iterator[None]:
    """Send this package's log to the terminal, and with RecBole's to ``file``.

    Raises:
        UserError: If another process is logging to ``file``: it is at the same run.
    """
    ours, root = logging.getLogger("recbole_siger"), logging.getLogger()
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[tuple[logging.Logger, logging.Handler]] = [(ours, screen)]
    if file is not None:
        kept = logging.FileHandler(file, encoding="utf-8")
        assert kept.stream is not None
        try:
            fcntl.flock(kept.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it when a process ends
        except BlockingIOError:
            kept.close()
            raise UserError(f"{file.parent}: another process is at this run; wait until it ends") from None
        except OSError:
            pass  # a file system without locks
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append((root, kept))
    level = ours.level
    ours.setLevel(logging.INFO)
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for logger, handler in handlers:
            logger.removeHandler(handler)
            handler.close()


@contextmanager
def following(log: Path) -> Iterator[None]:
    """Print the lines that another process adds to a log, without their dates."""
    seen, over = log.stat().st_size if log.exists() else 0, threading.Event()

    def show() -> None:
        nonlocal seen
        if log.exists():
            with log.open(encoding="utf-8") as stream:
                stream.seek(seen)
                whole = stream.read().rpartition("\n")[0]
            seen += len(whole.encode()) + bool(whole)
            for line in whole.splitlines():
                print(line.split(" INFO ", 1)[-1], flush=True)

    def follow() -> None:
        while not over.wait(0.5):
            show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        show()
