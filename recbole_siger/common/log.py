"""Destinations of log lines: the terminal, a run's file; and another process's log shown on the terminal."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recbole_siger.common.terminal import plain

__all__ = ["following", "log_file_of", "logging_to"]

_LOG_FILE = "recbole_siger_log_file"
_OURS = "recbole_siger"

_DEBUG = re.compile(r"\S+ \S+ DEBUG ")  # the start of a line of level DEBUG in a log file


class _OneLine(logging.Formatter):
    """Writes a message of this package on one line, without characters that could change a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        if record.name.partition(".")[0] != _OURS or record.exc_info:
            return super().format(record)
        named = logging.makeLogRecord({**vars(record), "msg": plain(record.getMessage()), "args": None})
        return super().format(named)


class _Screen(logging.StreamHandler):
    """Writes to standard output until the reader of a pipe has ended; a run goes on without the reader."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._is_open = True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if self._is_open:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Stop writing at a closed pipe; any other failure ends the command."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            self._is_open = False
        else:
            _raise("standard output")


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """End the command, where logging would print a traceback for each line."""
        _raise(self.baseFilename)


def _raise(name: str) -> None:
    """Raise the exception that is being handled; an OSError without a file gets the name."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        error.filename = name
    if error is not None:
        raise error


@contextmanager
def logging_to(file: Path | None) -> Iterator[None]:
    """Send this package's log to the terminal, and this package's and RecBole's log to ``file``.

    The terminal gets level INFO and above, the file also this package's level DEBUG. Messages of this package
    are written on one line each.

    If standard output is a pipe whose reader has ended, the lines go to the file only.

    Raises:
        OSError: If a line cannot be written, as on a full disk.
    """
    ours, root = logging.getLogger(_OURS), logging.getLogger()
    screen = _Screen()
    screen.setFormatter(_OneLine("%(message)s"))
    screen.setLevel(logging.INFO)
    handlers: list[tuple[logging.Logger, logging.Handler]] = [(ours, screen)]
    if file is not None:
        stored = _File(file, encoding="utf-8", errors="backslashreplace")
        stored.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
        handlers.append((root, stored))
    level = ours.level
    ours.setLevel(logging.INFO if file is None else logging.DEBUG)
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        if file is not None:
            vars(error).setdefault(_LOG_FILE, file)  # for the code that reports the error
        raise
    finally:
        ours.setLevel(level)
        for logger, handler in handlers:
            logger.removeHandler(handler)
        for _, handler in handlers:
            with suppress(OSError):  # the full disk or closed pipe that has ended the block
                handler.close()


def log_file_of(error: Exception) -> Path | None:
    """Return the file of the innermost :func:`logging_to` that an exception passed, or None."""
    return vars(error).get(_LOG_FILE)


@contextmanager
def following(log: Path) -> Iterator[None]:
    """Print the lines that another process adds to a log, without dates and without lines of level DEBUG."""
    seen, over = log.stat().st_size if log.exists() else 0, threading.Event()

    def show() -> None:
        nonlocal seen
        if log.exists():
            with log.open(encoding="utf-8", errors="backslashreplace") as stream:
                stream.seek(seen)
                whole = stream.read().rpartition("\n")[0]
            seen += len(whole.encode()) + bool(whole)
            for line in whole.splitlines():
                if not _DEBUG.match(line):
                    print(plain(line.split(" INFO ", 1)[-1]), flush=True)

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
