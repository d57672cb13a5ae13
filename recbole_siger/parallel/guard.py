"""A program that ends what a killed process has left of its Ray; it needs the standard library alone.

If the process that started Ray is killed, Linux kills the raylet as well, but not the agents that the raylet
has started. They live for another minute, while they try to report the raylet's death.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["guarding"]

_INTERVAL = 1.0  # seconds between two looks at the processes
_PROC = Path("/proc")

Found = dict[int, str]
"""Process id -> when the process began, because an id can be given to another process."""


@contextmanager
def guarding() -> Iterator[None]:
    """End the raylet of this process and what the raylet has started, if this process is killed in the block.

    Works on Linux; Ray has a reaper of its own on other systems.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    # A session of its own: Ctrl-C on the terminal must not end it.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate(b"ended\n")


def _watch(parent: int) -> None:
    """Wait for a word of the parent, or for the parent's end; then end what its raylet has started."""
    left: Found = {}
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], _INTERVAL)[0]:
            if sys.stdin.readline():
                return
            break
        left = _below_raylet(parent) or left
    running = _processes()
    for process, began in left.items():
        if process in running and running[process][1] == began:
            with suppress(ProcessLookupError):  # the process has just ended
                os.kill(process, signal.SIGKILL)


def _below_raylet(parent: int) -> Found:
    """Return the raylets that a process has started, and everything below them."""
    running = _processes()
    todo = [one for one, (above, _, name) in running.items() if above == parent and name == "raylet"]
    found: Found = {}
    while todo:
        one = todo.pop()
        found[one] = running[one][1]
        todo += [below for below, (above, _, _) in running.items() if above == one]
    return found


def _processes() -> dict[int, tuple[int, str, str]]:
    """Return ``{process id: (id of its parent, when it began, its name)}``."""
    found = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
        except OSError:  # the process has just ended
            continue
        fields = rest.split()
        found[int(folder.name)] = int(fields[1]), fields[19], head.partition("(")[2]
    return found


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
