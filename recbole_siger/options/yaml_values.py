"""YAML as values: the files under ``properties/``, the user's files, and text of a command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from recbole_siger.errors import UserError
from recbole_siger.options.resources import regular_file

__all__ = ["Loader", "parse_value", "read_yaml"]


# libyaml, if PyYAML has it, is about ten times as fast as the Python parser and reads the same values.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_SafeLoader):
    """YAML without tags that run code, reading ``1e-3`` as a number as RecBole does."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$"),
    list("-+0123456789."),
)


def parse_value(text: Any) -> Any:
    """Read a command-line value as YAML: ``"1e-3"`` is a number, ``"[a, b]"`` a list, ``""`` stays empty.

    >>> parse_value("1e-3"), parse_value("[10, 20]"), parse_value("None"), parse_value("True")
    (0.001, [10, 20], None, True)
    """
    if not isinstance(text, str) or not text.strip():
        return text
    if text == "None":
        return None
    try:
        return yaml.load(text, Loader=Loader)  # a SafeLoader
    except yaml.YAMLError:
        return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; raise a UserError with file and line for anything else."""
    try:
        regular_file(path, "configuration file", "check --config_files")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f", line {line + 1}" if line is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{where}: {problem}; fix the YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}; write `key: value` lines")
    return {str(key): value for key, value in content.items()}
