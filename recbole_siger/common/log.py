"""Destinations of log lines: the terminal, a run's file; and another process's log shown on the terminal."""

from __future__ import annotations

import fcntl
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_siger.errors import UserError

__all__ = ["following", "log_file_of", "logging_to"]

_LOG_FILE = "recbole_siger_log_file"

_DEBUG = re.compile(r"\S+ \S+ DEBUG ")  # the start of a line of level DEBUG in a log file


@contextmanager
def logging_to(file: Path | None) -> Iterator[None]:
    """Send this package's log to the terminal, and this package's and RecBole's log to ``file``.

    The terminal gets level INFO and above, the file also this package's level DEBUG.

    Raises:
        UserError: If another process logs to ``file``, because that process works on the same run.
    """
    ours, root = logging.getLogger("recbole_siger"), logging.getLogger()
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    screen.setLevel(logging.INFO)
    handlers: list[tuple[logging.Logger, logging.Handler]] = [(ours, screen)]
    if file is not None:
        kept = logging.FileHandler(file, encoding="utf-8")
        assert kept.stream is not None
        try:
            fcntl.flock(kept.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it when a process ends
        except BlockingIOError:
            kept.close()
            raise UserError(f"{file.parent}: another process works on this run; wait until it ends") from None
        except OSError:
            pass  # a file system without locks
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append((root, kept))
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
            with log.open(encoding="utf-8") as stream:
                stream.seek(seen)
                whole = stream.read().rpartition("\n")[0]
            seen += len(whole.encode()) + bool(whole)
            for line in whole.splitlines():
                if not _DEBUG.match(line):
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
