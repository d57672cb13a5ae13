"""Typed options of a command: defaults from ``properties/<command>.yaml``, values as typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from recbole_siger.errors import UserError
from recbole_siger.options.flags import parse_flag
from recbole_siger.options.params import build_params, did_you_mean, options
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import parse_value, read_yaml

__all__ = ["command_params", "dataset_folder"]

P = TypeVar("P")

SOURCE = "command line"


def command_params(cls: Callable[..., P], command: str, given: Mapping[str, str]) -> P:
    """Make the options ``cls`` of a command from what was typed.

    An option that is text stays as typed, a list is split at commas, a flag takes yes, no, 1 and 0 as well;
    any other text is read as YAML.

    Args:
        cls: A frozen dataclass; a field that the command's YAML does not list has to be given.
        command: Its YAML is ``properties/<command>.yaml``.
        given: ``--key=value`` pairs, still text.

    Raises:
        UserError: Naming the key, if it is unknown, missing, of the wrong type or out of range.
    """
    path = find_resource(f"properties/{command}.yaml")
    assert path is not None
    known = {option.name: option.type for option in options(cls)}  # type: ignore[arg-type]  # a dataclass
    values: dict[str, Any] = read_yaml(path)
    for key, text in given.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; see `recbole-siger {command} --help`"
            raise UserError(f"{SOURCE}: `{command}` has no option --{key}{hint}")
        values[key] = _read(text, known[key])
    for key in known:
        if key not in values:
            raise UserError(f"{SOURCE}: `{command}` needs --{key}; see `recbole-siger {command} --help`")
    origin = {key: SOURCE if key in given else f"properties/{path.name}" for key in values}
    return build_params(cls, values, origin)


def dataset_folder(data_path: str, dataset: str) -> Path:
    """Return a dataset's folder, which need not exist.

    Raises:
        UserError: If the name cannot be a folder's and a file's.
    """
    if not re.fullmatch(r"\w[\w.-]*", dataset):
        raise UserError(f"dataset {dataset!r}: use letters, digits, '-', '_' and '.', e.g. 'shop'.")
    return Path(data_path) / dataset


def _read(text: str, annotation: Any) -> Any:
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if str in kinds:
        return text
    if bool in kinds:
        return parse_flag(text)
    if any(get_origin(kind) is tuple for kind in kinds):
        return [word.strip() for word in text.split(",") if word.strip()]
    return parse_value(text)
