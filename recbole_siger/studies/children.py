"""Child processes that run one command of the package each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from recbole_siger.common.parent import PARENT_VARIABLE
from recbole_siger.common.process import ending_orderly

__all__ = ["Children", "Report", "running_children", "silent"]

Report = Callable[[str], None]


def silent(line: str) -> None:
    """Report nothing."""


_PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL


class Children:
    """The running child processes. After :meth:`stop`, no other child starts."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def run(self, words: Sequence[str], report: Report) -> tuple[int, str]:
        """Run one command of the package and wait for its end.

        Args:
            words: The command and its options.
            report: Receives each line that the child prints to stdout.

        Returns:
            Exit code, and what the child printed to stderr.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            with self._lock:
                if self.stopped:
                    return 130, "interrupted"
                process = _start(words, complaints)
                self._running.add(process)
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    report(line.rstrip())
                code = process.wait()
            finally:
                if process.poll() is None:  # `report` raised an error
                    process.kill()
                    process.wait()
                with self._lock:
                    self._running.discard(process)
            complaints.seek(0)
            return code, complaints.read()

    def stop(self) -> None:
        """Terminate every child, and kill each child that has not ended ten seconds later."""
        with self._lock:
            self.stopped = True
            running = list(self._running)  # other threads remove children from the set
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _start(words: Sequence[str], complaints: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", PARENT_VARIABLE: str(os.getpid())}
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_siger.cli", *words],
        stdout=subprocess.PIPE,
        stderr=complaints,
        encoding="utf-8",
        errors="replace",
        env=environment,
    )


@contextmanager
def running_children() -> Iterator[Children]:
    """Yield the children of this process; SIGTERM to this process becomes KeyboardInterrupt.

    So the caller can stop the children before this process ends.
    """
    with ending_orderly():
        yield Children()
