"""The table of commands; a command's module is imported, and its options are read, when it is called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from recbole_siger import __version__
from recbole_siger.cli.command import Command

__all__ = ["APP", "COMMANDS", "COMPLETE", "GROUPS", "PROGRAM", "make_command"]

PROGRAM = "recbole-siger"
COMPLETE = "_RECBOLE_SIGER_COMPLETE"
"""Environment variable by which the script of `completion` asks for words."""


@dataclass(frozen=True)
class _Entry:
    """Where a command is made, and what the list of commands says of it."""

    module: str
    summary: str


GROUPS = {
    "Train and evaluate": {
        "run": _Entry("runs", "Train a model, test its best epoch, and write a run folder."),
        "resume": _Entry("runs", "Continue an interrupted run."),
        "evaluate": _Entry("runs", "Test a run again."),
        "estimate": _Entry("runs", "Print the memory and the time that a run will need."),
    },
    "Compare and search": {
        "compare": _Entry("studies", "Print a table of models, with significance tests."),
        "ablate": _Entry("studies", "Print tables of a model's component and modality variants."),
        "sweep": _Entry("studies", "Print one option's results over several values."),
        "tune": _Entry("studies", "Search hyper-parameters with Ray."),
        "cold-start": _Entry("studies", "Print results for cold items or users."),
        "reproduce": _Entry("reproduce", "Reproduce a table or figure of a paper."),
        "report": _Entry("reports", "Write a page or a figure of runs."),
        "audit": _Entry("reports", "Check a dataset and a run for faults of an evaluation."),
    },
    "Use a finished run": {
        "recommend": _Entry("recommend", "Recommend items to users."),
        "similar": _Entry("recommend", "Print similar items or users."),
        "new-items": _Entry("recommend", "Score items that were not in training."),
        "export": _Entry("recommend", "Write embeddings for other programs."),
        "serve": _Entry("serving", "Answer requests for recommendations over HTTP."),
    },
    "Data": {
        "prepare": _Entry("data", "Turn raw data into a dataset."),
        "import-mmrec": _Entry("data", "Turn a folder in MMRec's layout into a dataset."),
        "extract": _Entry("data", "Compute text or image features of items."),
        "profiles": _Entry("data", "Let a language model describe items or users."),
        "cache": _Entry("data", "List or delete stored graphs."),
    },
    "Information": {
        "config": _Entry("runs", "Print every option of a model."),
        "models": _Entry("runs", "Print every model name."),
        "doctor": _Entry("data", "Check this installation."),
        "completion": _Entry("shell", "Print the script that completes words in a shell."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


def make_command(name: str) -> Command:
    """Make the command ``name``, a key of ``COMMANDS``; only the module of its kind is imported."""
    module = importlib.import_module(f"recbole_siger.cli.{COMMANDS[name].module}")
    return module.COMMANDS[name]()


class _App(click.Group):
    """The commands in groups, imported late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command's name."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make one command."""
        return make_command(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, one line each; no command is imported."""
        formatter.write_text(f"Usage: {PROGRAM} COMMAND [WORDS] [--key=value ...]")
        for title, entries in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])
        with formatter.section("Options"):
            formatter.write_dl(
                [
                    ("--help", "Show this text; after a command, the options of the command."),
                    ("--version", "Print the version."),
                    ("--debug", "Show the traceback of an unexpected error; with any command."),
                ]
            )


APP = _App(
    PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=lambda ctx, param, value: _version(ctx) if value else None,
        )
    ],
)


def _version(ctx: click.Context) -> None:
    click.echo(f"{PROGRAM} {__version__}")
    ctx.exit()
