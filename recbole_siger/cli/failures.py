"""Messages for unexpected errors, and the wording of click's messages."""

from __future__ import annotations

import shlex
import signal
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from recbole_siger import __version__
from recbole_siger.cli.command import Command, Opt
from recbole_siger.common.log import log_file_of
from recbole_siger.errors import Terminated, UserError

__all__ = ["click_message", "exit_code", "message_of", "write_report"]


_LONGEST = 2_000


def shortened(message: str) -> str:
    """Return a message of at most 2,000 characters; the middle of a longer message is left out.

    A message contains values and parts of files, which can have any length.

    >>> len(shortened("x" * 10**6)), shortened("short")
    (2000, 'short')
    """
    return message if len(message) <= _LONGEST else f"{message[:1_500]} ... {message[-495:]}"


def message_of(error: Exception) -> str | None:
    """Return the line for an error that a user can fix; None for any other error."""
    if isinstance(error, UserError):
        return shortened(str(error))
    if isinstance(error, click.UsageError):
        return shortened(click_message(error))
    if isinstance(error, OSError):
        return f"{error.filename or 'file'}: {error.strerror or error}"
    return None


def exit_code(stop: BaseException | None) -> int:
    """Return 128 and the number of the signal that caused an interrupt; 130 for Ctrl-C."""
    while stop is not None:
        if isinstance(stop, Terminated):
            return 128 + stop.number
        stop = stop.__context__
    return 128 + signal.SIGINT


def click_message(error: click.UsageError) -> str:
    """Return click's message in one line: what is wrong, and what to write."""
    context = error.ctx
    command = context.command if context else None
    if isinstance(error, click.MissingParameter) and isinstance(error.param, Opt) and context:
        name = context.info_name
        return f"command line: {name} requires --{error.param.name}; see `recbole-siger {name} --help`"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        problem = f"{error.param.metavar or str(error.param.name).upper()} is missing"
    else:
        problem = " ".join(error.message.split()).rstrip(".")
    usage = f"; write `{command.usage}`" if isinstance(command, Command) else ""
    return f"command line: {problem}{usage}"


def write_report(error: Exception, words: Sequence[str]) -> str:
    """Write an unexpected error's traceback to a log file, and return the one line for the user.

    The file is the log of the run that failed, or a new file in the folder for temporary files, as for a run
    that has not begun and whose folder is gone.
    """
    log = log_file_of(error)
    file = log if log is not None and log.parent.is_dir() else _new_file()
    command = shlex.join(["recbole-siger", *words])
    lines = [
        f"recbole-siger {__version__}: unexpected error in: {command}\n",
        *traceback.format_exception(error),
    ]
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(lines)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unexpected {text[:300]}; details in {file}; --debug shows the traceback"


def _new_file() -> Path:
    with tempfile.NamedTemporaryFile(prefix="recbole-siger-", suffix=".log", delete=False) as stream:
        return Path(stream.name)
