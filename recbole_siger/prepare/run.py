"""The kinds of raw data by name, and the command-line options of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from recbole_siger.common.numbers import whole_number
from recbole_siger.errors import UserError
from recbole_siger.options.flags import read_flag
from recbole_siger.options.params import build_params, did_you_mean
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.prepare.download import Download, fetch_all
from recbole_siger.prepare.folder import check_target
from recbole_siger.prepare.pipeline import PrepareParams, Source, prepare_dataset
from recbole_siger.prepare.sources.amazon import Amazon, edition_of
from recbole_siger.prepare.sources.microlens import MicroLens
from recbole_siger.prepare.sources.movielens import MovieLens, unpack
from recbole_siger.prepare.sources.own_csv import Columns, Table

__all__ = ["KINDS", "prepare"]

Values = Mapping[str, str]

COMMON = ("name", "data_path", "overwrite", *(field.name for field in fields(PrepareParams)))
RAW = ("source", "edition", "download", "mirror")


@dataclass(frozen=True)
class Kind:
    """One kind of raw data: its options, the required options, the function that opens it, its downloads."""

    options: tuple[str, ...]
    needed: tuple[str, ...]
    open: Callable[[Values], Source]
    downloads: Callable[[Values], list[Download]] | None = None


def _table(values: Values) -> Source:
    columns = Columns(
        user=values["user_col"],
        item=values["item_col"],
        rating=values.get("rating_col"),
        time=values.get("time_col"),
    )
    items, users = (Path(values[key]) if key in values else None for key in ("items", "users"))
    return Table(Path(values["inter"]), items, users, columns, values.get("sep"))


KINDS = {
    "amazon": Kind(
        (*RAW, "category"),
        ("category", "source", "name"),
        lambda values: Amazon(Path(values["source"]), values["category"], values["edition"]),
        lambda values: edition_of(values["edition"], values["category"]).downloads(values["category"]),
    ),
    "microlens": Kind(
        RAW,
        ("source", "name"),
        lambda values: MicroLens(Path(values["source"]), values.get("edition")),
        lambda values: MicroLens.downloads(values.get("edition", "")),
    ),
    "movielens": Kind(
        RAW,
        ("source", "name"),
        lambda values: MovieLens(Path(values["source"]), values.get("edition")),
        lambda values: MovieLens.downloads(values.get("edition", "")),
    ),
    "csv": Kind(
        ("inter", "items", "users", "user_col", "item_col", "rating_col", "time_col", "sep"),
        ("inter", "name"),
        _table,
    ),
}
"""Options of ``recbole-siger prepare``."""


def prepare(kind: str, values: Values, report: Callable[[str], None]) -> Path:
    """Prepare a dataset from command-line options.

    Args:
        kind: A key of ``KINDS``.
        values: Option -> value, as text.
        report: Called with each line for the user.

    Returns:
        The dataset's folder.

    Raises:
        UserError: If an option is unknown, missing or invalid, or the data are invalid.
    """
    if kind not in KINDS:
        raise UserError(
            f"command line: prepare {kind!r}: expected one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}"
        )
    one = KINDS[kind]
    known = (*COMMON, *one.options)
    for key in values:
        if key not in known:
            raise UserError(f"command line: prepare {kind} has no option --{key}{did_you_mean(key, known)}")
    for key in one.needed:
        if not values.get(key):
            raise UserError(
                f"command line: prepare {kind} requires --{key}; see `recbole-siger prepare --help`"
            )
    chosen = _with_defaults(kind, values)
    params = build_params(PrepareParams, chosen, dict.fromkeys(values, "command line"))
    params.shares()
    _check_effect(values, params)
    name, data_path, overwrite = values["name"], Path(chosen["data_path"]), _on(values, "overwrite")
    if one.downloads is not None and _on(values, "download"):
        check_target(name, data_path, [Path(values["source"])], overwrite=overwrite)  # before a long download
        _download(one.downloads(chosen), values, report)
    source = one.open(chosen)
    return prepare_dataset(source, name, params, data_path=data_path, overwrite=overwrite, report=report)


def _check_effect(values: Values, params: PrepareParams) -> None:
    """Refuse options that have no effect with the other options."""
    split = f"--split={params.split}"
    idle = {
        "ratios": split if params.split == "leave_one_out" else "",
        "seed": split if params.split != "random" else "",
        "mirror": "" if _on(values, "download") else "--download=False",
    }
    for key, cause in idle.items():
        if key in values and cause:
            raise UserError(f"command line: --{key}={values[key]} has no effect with {cause}; remove it")


def _on(values: Values, key: str) -> bool:
    return read_flag(key, values.get(key, "False"))


def _with_defaults(kind: str, values: Values) -> dict[str, Any]:
    """Return all options: given values, then defaults from ``properties/``; numbers as numbers."""
    chosen: dict[str, Any] = {}
    for file in ("prepare.yaml", f"prepare/{kind}.yaml"):
        path = find_resource(f"properties/{file}")
        if path is not None:
            chosen |= read_yaml(path)
    for key, value in values.items():
        # YAML 1.1 would read 8:1:1 as a base-60 number.
        number = whole_number(value) if isinstance(chosen.get(key), int) else None
        chosen[key] = value if number is None else number
    return chosen


def _download(downloads: list[Download], values: Values, report: Callable[[str], None]) -> None:
    folder = Path(values["source"])
    fetch_all(downloads, folder, mirror=values.get("mirror"), report=report)
    for one in downloads:
        if one.name.endswith(".zip"):
            unpack(folder / one.name)
