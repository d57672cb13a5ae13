"""Settings of this process that end with a block: environment, signals, streams; how threads wait; memory."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole_siger.errors import Terminated

__all__ = ["any_encoding", "ending_orderly", "restored_environment", "return_free_memory", "wait_briefly"]

_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# GNU's OpenMP counts turns of the waiting loop, LLVM's and Intel's milliseconds.
_BRIEF = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@contextmanager
def restored_environment(*names: str) -> Iterator[None]:
    """Restore some environment variables at the end of the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait_briefly() -> None:
    """Let an idle OpenMP thread spin briefly, then sleep, unless the user's environment has a waiting policy.

    OpenMP reads the policy once, when torch is loaded, so a command calls this function before torch is
    imported; importing this package never does. On a machine with other work, a spinning thread takes the
    core from the thread that it waits for. On a machine without other work, a thread that sleeps at once
    makes a training step slower.
    """
    if not any(name in os.environ for name in _POLICIES):
        os.environ.update(_BRIEF)


@contextmanager
def ending_orderly() -> Iterator[None]:
    """Raise :class:`Terminated`, a KeyboardInterrupt, in the block at SIGTERM and at SIGHUP.

    So a process that is told to end releases locks, deletes temporary files and stops its children. A signal
    that the process ignores stays ignored. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Terminated(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def any_encoding() -> Iterator[None]:
    """Let standard output and standard error write characters that their encoding lacks, as escapes."""
    streams = [one for one in (sys.stdout, sys.stderr) if isinstance(one, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def return_free_memory() -> None:
    """Give memory that is free within this process back to the system; only glibc has such a call."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
