"""Exceptions with messages for users."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["RunInterrupted", "Terminated", "UserError"]


class UserError(Exception):
    """Bad input, described in one line that names the file, the key, the value and the fix.

    The command line prints the line without a traceback and exits with 2.
    """


class Terminated(KeyboardInterrupt):
    """An interrupt by a signal that ends a process, such as SIGTERM.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


class RunInterrupted(KeyboardInterrupt):
    """An interrupt of a run that can be continued.

    Attributes:
        run_dir: The run folder.
        command: The command that continues the run.

    >>> RunInterrupted(Path("runs/my run"), data_path=None, model="package.module:Class").command
    "recbole-siger resume 'runs/my run' --model=package.module:Class"
    """

    def __init__(self, run_dir: Path, **options: object) -> None:
        words = [f"--{key}={value}" for key, value in options.items() if value is not None]
        self.run_dir = run_dir
        self.command = shlex.join(["recbole-siger", "resume", str(run_dir), *words])
        super().__init__(f"continue with: {self.command}")
