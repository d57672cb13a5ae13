"""Typed options of a command: defaults from ``properties/<command>.yaml``, values as typed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from recbole_siger.errors import UserError
from recbole_siger.options.flags import parse_flag
from recbole_siger.options.names import check_dataset_name
from recbole_siger.options.params import build_params, did_you_mean, options
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import parse_value, read_yaml

__all__ = ["command_params", "dataset_folder", "files_of"]

P = TypeVar("P")

SOURCE = "command line"


def command_params(cls: Callable[..., P], command: str, given: Mapping[str, str]) -> P:
    """Make the options ``cls`` of a command from typed text.

    A text option keeps its text. A list is split at commas. A flag also accepts yes, no, 1 and 0. Any other
    option is read as YAML.

    Args:
        cls: A frozen dataclass; a field without a default in the command's YAML is required.
        command: Its YAML is ``properties/<command>.yaml``.
        given: ``--key=value`` pairs, still text.

    Raises:
        UserError: With the key, if the key is unknown or missing, or its value has a wrong type or range.
    """
    path = find_resource(f"properties/{command}.yaml")
    assert path is not None
    known = {option.name: option.type for option in options(cls)}  # type: ignore[arg-type]  # a dataclass
    values: dict[str, Any] = read_yaml(path)
    for key, text in given.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; see `recbole-siger {command} --help`"
            raise UserError(f"{SOURCE}: `{command}` has no option --{key}{hint}")
        values[key] = _read(key, text, known[key])
    for key in known:
        if key not in values:
            raise UserError(f"{SOURCE}: `{command}` requires --{key}; see `recbole-siger {command} --help`")
    origin = {key: SOURCE if key in given else f"properties/{path.name}" for key in values}
    return build_params(cls, values, origin)


def dataset_folder(data_path: str, dataset: str) -> Path:
    """Return the path of a dataset's folder, which may be missing.

    Raises:
        UserError: If the name is not a valid name of a folder and a file.
    """
    return Path(data_path) / check_dataset_name(dataset)


def _read(key: str, text: str, annotation: Any) -> Any:
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if str in kinds:
        return text
    if bool in kinds:
        return parse_flag(text)
    if any(get_origin(kind) is tuple for kind in kinds):
        return [word.strip() for word in text.split(",") if word.strip()]
    return parse_value(text, f"{SOURCE}: {key}")


def files_of(config_files: str | None) -> list[str]:
    """Return the files that ``--config_files`` names: one file, or several words.

    Quotation marks or a backslash keep the blanks of a path, as in a shell.

    Raises:
        UserError: If a quotation mark has no partner.
    """
    text = config_files or ""
    if text and Path(text).is_file():
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"command line: --config_files={text}: {str(error).lower()}") from None
