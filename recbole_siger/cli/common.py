"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_siger.cli.command import Opt, option
from recbole_siger.cli.declared import (
    Declared,
    option_rows,
    params_of_model,
    read_dataclass,
    shipped_files,
)
from recbole_siger.common.numbers import whole_number
from recbole_siger.errors import UserError

__all__ = [
    "config_files",
    "dataset",
    "given",
    "jobs_of",
    "keys_of_run",
    "keys_of_search",
    "keys_of_study",
    "model",
    "run_options",
]


def model(meaning: str = "Model; `recbole-siger models` lists the names.", *, required: bool = False) -> Opt:
    """Return the option ``--model``."""
    return option("model", meaning, metavar="NAME", required=required)


def dataset(meaning: str = "Dataset, the name of its folder.", *, required: bool = False) -> Opt:
    """Return the option ``--dataset``."""
    return option("dataset", meaning, metavar="NAME", required=required)


def config_files(meaning: str = "YAML files of options, separated by blanks.") -> Opt:
    """Return the option ``--config_files``."""
    return option("config_files", meaning, metavar='"FILE FILE"')


def run_options() -> list[Opt]:
    """Return the options that say what a run is."""
    files = (
        "YAML files of options, separated by blanks; a later file is stronger, the command line strongest."
    )
    return [model(), dataset(), config_files(files)]


def jobs_of(text: str) -> int:
    """Return the number that ``--jobs`` states.

    Raises:
        UserError: If it is no integer of at least 1.
    """
    if not (number := whole_number(text)):
        raise UserError(f"command line: --jobs={text}: expected a number in [1, inf)")
    return number


def given(**values: Any) -> dict[str, Any]:
    """Return the options that were typed."""
    return {key: value for key, value in values.items() if value is not None}


def keys_of_run(model: str | None) -> list[tuple[str, list[Declared]]]:
    """Return the sections of a help: keys of every run, and those of a model if it is named."""
    typed = read_dataclass("config", "RunParams")
    rows = option_rows(shipped_files("overall.yaml"), typed, typed_only=True)
    found = [("Keys of every run (properties/overall.yaml)", rows)]
    return [*_keys_of_model(model), *found]


def keys_of_study(model: str | None) -> list[tuple[str, list[Declared]]]:
    """Return the sections of :func:`keys_of_run` without the key of the run folder, which a study names."""
    return [(title, [row for row in rows if row.name != "run_dir"]) for title, rows in keys_of_run(model)]


def keys_of_search(model: str | None) -> list[tuple[str, list[Declared]]]:
    """Return the section of a help with the keys of a model, if it is named."""
    return _keys_of_model(model)


def _keys_of_model(model: str | None) -> list[tuple[str, list[Declared]]]:
    files: Sequence[Any] = shipped_files(f"model/{model}.yaml") if model else []
    if not files:
        return []
    return [
        (
            f"Keys of {model} (properties/model/{model}.yaml)",
            option_rows([*files], params_of_model(str(model))),
        )
    ]
