"""Print the memory that a run will need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.log import logging_to
from recbole_siger.common.terminal import build_table, open_console, plain
from recbole_siger.config import Config
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment
from recbole_siger.training.memory import MIB, check_fits, estimate

__all__ = ["print_estimate"]


def print_estimate(
    model: str | None, dataset: str | None, files: Sequence[str], values: Mapping[str, str]
) -> None:
    """Build a run and print the memory that it holds and will need; nothing is trained.

    Raises:
        UserError: If the run cannot fit into memory.
    """
    config = Config(model, dataset, files, command_line=values)
    with scratch_folder() as folder, logging_to(None):
        experiment = build_experiment(config, RunFolder(folder))
    found = estimate(experiment)
    console, title = open_console(), f"{config['model']} on {config['dataset']}"
    rows = [[term.name, f"{term.n_bytes / MIB:.1f}", term.when, term.option] for term in found.terms]
    console.print(build_table(console, title, ["memory", "MiB", "there", "lowered by"], rows))
    print(f"peak      {found.peak / MIB:.1f} MiB, beside Python and its libraries")
    print(f"largest   {plain(found.largest.name)}, {found.largest.n_bytes / MIB:.1f} MiB")
    check_fits(experiment)
