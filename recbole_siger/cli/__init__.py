"""The command line: arguments only, no logic.

One command, one function, in the file of its kind; what it needs is imported when it is called, so that
`--help` and a typing error answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recbole_siger.cli import data, runs, studies
from recbole_siger.errors import RunInterrupted, UserError

__all__ = ["main"]

USAGE = "recbole-siger COMMAND\n\n" + runs.USAGE + studies.USAGE + data.USAGE
COMMANDS = runs.COMMANDS | studies.COMMANDS | data.COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for a failed check, 2 for bad input, or 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] == "help" or {"-h", "--help"} & set(words):
        print(USAGE, end="")
        return 0 if words else 2
    command = COMMANDS.get(words[0])
    try:
        if command is None:
            from recbole_siger.options.params import did_you_mean

            raise UserError(
                f"unknown command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; see `recbole-siger --help`"
            )
        return command(words[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
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
