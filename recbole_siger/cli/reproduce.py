"""The command that reproduces a table or figure of a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from recbole_siger.cli.command import Command, option
from recbole_siger.cli.common import config_files, dataset, given, jobs_of, keys_of_search
from recbole_siger.errors import UserError
from recbole_siger.options.command import files_of
from recbole_siger.options.resources import find_resource

__all__ = ["COMMANDS"]


def _names() -> str:
    folder = find_resource("properties/reproduce")
    return ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) if folder else ""


def reproduce_command() -> Command:
    """Return the command ``reproduce``."""
    runs = "Further folder with finished runs, which count if their whole configuration is equal."
    out = "Folder of the results; by default runs/<dataset>/reproduce-<name>."
    features = "Whether the dataset has the paper's own features, so that no row is skipped."
    address = "Ray cluster: auto, HOST:PORT or ray://HOST:PORT; by default processes of this machine."
    return Command(
        "reproduce",
        _reproduce,
        [
            click.Argument(["name"]),
            dataset("Dataset of the table; may be left out if the table has one dataset."),
            option(
                "models", "Models or rows to run, separated by commas; by default all.", metavar="NAME,NAME"
            ),
            option("seeds", "Seeds of every row: a number or a list; by default as the table states."),
            option(
                "dry_run", "Whether the runs are only listed, with an estimate.", kind="bool", default="False"
            ),
            option("runs", runs, metavar="DIR", repeated=True),
            option("runs_dir", "Folder in which runs are looked for and written.", default="runs"),
            option(
                "jobs", "Runs at a time; by default 1, or as many as the cluster can hold.", metavar="INT"
            ),
            option("address", address),
            option("cpus_per_run", "CPUs that Ray reserves for a run.", metavar="FLOAT", default="1"),
            option("gpus_per_run", "GPUs that Ray reserves for a run.", metavar="FLOAT", default="0"),
            option("original_features", features, kind="bool", default="False"),
            option("out", out, metavar="FOLDER"),
            config_files(),
        ],
        usage="NAME | FILE.yaml [--dataset=NAME] [--dry_run] [--key=value ...]",
        summary="Reproduce a table or figure of a paper: published numbers beside ours, with verdicts.",
        example="recbole-siger reproduce siger-table1 --dataset=baby --dry_run",
        keys=True,
        sections=keys_of_search,
        note=f"Tables: {_names()}. Any key of the configuration is an option too and is set for every run.",
    )


def _reproduce(
    name: str,
    runs: tuple[str, ...],
    dry_run: bool | None,
    original_features: bool | None,
    config_files: str | None,
    keys: dict[str, str],
    **options: Any,
) -> int:
    values = given(**options)
    reserved = [key for key in ("cpus_per_run", "gpus_per_run") if key in values]
    for key in ("seed", "run_dir"):
        if key in keys:
            raise UserError(
                f"command line: --{key}={keys[key]}: reproduce sets this key; use --seeds or --runs_dir"
            )
    jobs = None if (text := values.pop("jobs", None)) is None else jobs_of(text)
    cpus = _number("cpus_per_run", values.pop("cpus_per_run", "1"))
    gpus = _number("gpus_per_run", values.pop("gpus_per_run", "0"))
    if cpus == 0:
        raise UserError("command line: --cpus_per_run=0: expected a number in (0, inf)")
    if reserved and "address" not in values:
        raise UserError(f"command line: --{reserved[0]} is for a cluster; add --address, or leave it out")
    from recbole_siger.reproduce.plan import Request
    from recbole_siger.reproduce.run import reproduce

    request = Request(
        options=keys,
        config_files=tuple(files_of(config_files)),
        runs=runs,
        jobs=jobs,
        cpus_per_run=cpus,
        gpus_per_run=gpus,
        original_features=bool(original_features),
        **values,
    )
    return reproduce(name, request, dry_run=bool(dry_run))


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UserError(f"command line: --{key}={text}: expected a number in [0, inf)")
    return number


COMMANDS: dict[str, Callable[[], Command]] = {"reproduce": reproduce_command}
