"""What is asked of a search: the options of the command, and the arguments of ``tune_model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_siger.errors import UserError
from recbole_siger.options.command import command_params
from recbole_siger.options.params import bounded

__all__ = ["Request", "SearchParams", "check_searcher", "search_params"]


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """Options of a search; ``properties/tune.yaml`` documents them and sets their defaults."""

    search: Literal["grid", "random", "bayes"]
    num_samples: int | None = bounded("[1, inf)")
    metric: str | None
    scheduler: Literal["asha", "none"]
    grace_epochs: int = bounded("[1, inf)")
    reduction_factor: int = bounded("[2, inf)")
    cpus_per_trial: float = bounded("(0, inf)")
    gpus_per_trial: float = bounded("[0, inf)")
    max_concurrent: int | None = bounded("[1, inf)")
    address: str | None


def search_params(values: Mapping[str, Any]) -> SearchParams:
    """Make the parameters of a search; values in text form are parsed.

    Raises:
        UserError: If an option does not accept its value.
    """
    params = command_params(SearchParams, "tune", values)
    if params.search != "grid" and params.num_samples is None:
        raise UserError(
            f"command line: --search={params.search} requires --num_samples=N, the number of points"
        )
    return params


def check_searcher(search: str) -> None:
    """Raise a UserError with the fix if a package that the searcher requires is not installed."""
    if search == "bayes":
        try:
            import optuna  # noqa: F401  # an extra
        except ImportError:
            raise UserError("--search=bayes requires Optuna: pip install 'recbole-siger[bayes]'") from None


@dataclass(frozen=True)
class Request:
    """Arguments of :func:`tune_model`."""

    model: str
    dataset: str
    files: tuple[str, ...]
    options: dict[str, Any]
    space_file: str | Path | None
    space: tuple[str, ...]
    seeds: int | str | Sequence[int]
    out: str | Path | None
    search: dict[str, Any]
