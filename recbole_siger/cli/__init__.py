"""The command line: arguments only, no logic.

One command, one function, in the file of its kind. What a command needs is imported when the command is
called, so that `--help` and a typing error are answered at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from recbole_siger.cli.app import APP, COMMANDS, COMPLETE, PROGRAM
from recbole_siger.cli.failures import click_message, write_report
from recbole_siger.common.process import wait_passively
from recbole_siger.errors import RunInterrupted, UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["main"]

_WITHOUT_COMMAND = ("-h", "--help", "--version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        0; 1 for a failed check or an unexpected error; 2 for bad input; 130 if interrupted.
    """
    wait_passively()  # before a command imports torch
    words = list(sys.argv[1:] if arguments is None else arguments)
    if instruction := os.environ.get(COMPLETE):
        return shell_complete(APP, {}, PROGRAM, COMPLETE, instruction)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    try:
        return _run(words)
    except UserError as error:
        return _refused(str(error))
    except click.UsageError as error:
        return _refused(click_message(error))
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has ended. Without this, Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refused(f"{error.filename or 'file'}: {error.strerror or error}")
    except RunInterrupted as stop:
        print(f"interrupted; {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(
            "interrupted; `recbole-siger resume RUN_DIR` continues a run, --resume a search, "
            "the command itself a table",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"error: {write_report(error, words)}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    if words and words[0] not in COMMANDS and words[0] not in _WITHOUT_COMMAND:
        hint = did_you_mean(words[0], COMMANDS)
        raise UserError(f"unknown command {words[0]!r}{hint}; see `recbole-siger --help`")
    try:
        with APP.make_context(PROGRAM, [*words] or ["--help"]) as context:  # click empties the list
            code = APP.invoke(context) or 0
        sys.stdout.flush()  # here, so that a closed pipe is noticed before the interpreter ends
        return code
    except click.exceptions.Exit as done:  # after --help and --version
        return done.exit_code if words else 2


def _refused(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
