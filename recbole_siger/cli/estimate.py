"""Print the memory that a run will need."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recbole_siger.common.log import logging_to
from recbole_siger.config import Config
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment
from recbole_siger.training.memory import MIB, check_fits, estimate

__all__ = ["print_estimate"]


def print_estimate(
    model: str | None, dataset: str | None, files: Sequence[str], values: Mapping[str, str]
) -> None:
    """Build a run, print what it holds and will need, and train nothing.

    Raises:
        UserError: If it cannot fit.
    """
    config = Config(model, dataset, files, command_line=values)
    with tempfile.TemporaryDirectory() as folder, logging_to(None):
        experiment = build_experiment(config, RunFolder(Path(folder)))
    found = estimate(experiment)
    console = Console() if Console().is_terminal else Console(width=120)
    title = f"{config['model']} on {config['dataset']}"
    table = Table("memory", "MiB", "there", "lowered by", title=title, title_justify="left")
    for term in found.terms:
        table.add_row(term.name, f"{term.n_bytes / MIB:.1f}", term.when, term.option)
    console.print(table)
    print(f"peak      {found.peak / MIB:.1f} MiB, beside Python and its libraries")
    print(f"largest   {found.largest.name}, {found.largest.n_bytes / MIB:.1f} MiB")
    check_fits(experiment)
