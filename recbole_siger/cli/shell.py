"""The command that sets up completion in a shell."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import get_completion_class

from recbole_siger.cli.app import APP, COMPLETE, PROGRAM
from recbole_siger.cli.command import Command

__all__ = ["COMMANDS"]


def completion_command() -> Command:
    """Return the command ``completion``."""
    return Command(
        "completion",
        _completion,
        [click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")],
        usage="bash|zsh|fish",
        summary="Print the script that completes commands, options and model names in a shell.",
        example='eval "$(recbole-siger completion bash)"',
        note="Add the line of the example to ~/.bashrc to have completion in every shell.",
    )


def _completion(shell: str) -> None:
    made = get_completion_class(shell)
    assert made is not None  # click.Choice has checked the name
    click.echo(made(APP, {}, PROGRAM, COMPLETE).source())


COMMANDS: dict[str, Callable[[], Command]] = {"completion": completion_command}
