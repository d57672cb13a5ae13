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
from recbole_siger.cli.failures import exit_code, message_of, write_report
from recbole_siger.common.process import any_encoding, ending_orderly, wait_briefly
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import RunInterrupted, UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["main"]

_RESUME = "`recbole-siger resume RUN_DIR` continues a run, --resume a search, the command itself a table"
_WITHOUT_COMMAND = ("-h", "--help", "--version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        0; 1 for a failed check or an unexpected error; 2 for bad input; 130 after Ctrl-C, 143 after SIGTERM,
        129 after SIGHUP.
    """
    wait_briefly()  # before a command imports torch
    words = list(sys.argv[1:] if arguments is None else arguments)
    if instruction := os.environ.get(COMPLETE):
        return shell_complete(APP, {}, PROGRAM, COMPLETE, instruction)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    with any_encoding():
        try:
            with ending_orderly():
                return _run(words)
        except KeyboardInterrupt as stop:
            print_line(f"interrupted; {stop if isinstance(stop, RunInterrupted) else _RESUME}", sys.stderr)
            return exit_code(stop)
        except BrokenPipeError:
            # The reader of a pipe, such as `head`, has ended. Without this, Python complains at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if (line := message_of(error)) is not None:
                return _refused(line)
            if debug:
                raise
            print_line(f"error: {write_report(error, words)}", sys.stderr)
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
    print_line(f"error: {message}", sys.stderr)
    return 2
