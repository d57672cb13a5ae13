"""YAML as values: the files under ``properties/``, the user's files, and text of a command line.

This module has the one reader of YAML. A file of another person is data: its tags run no code, its aliases
and its depth have a limit, and every error is one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, ClassVar

import yaml

from recbole_siger.errors import UserError
from recbole_siger.options.resources import regular_file

__all__ = [
    "Loader",
    "RepeatedKeyError",
    "YamlError",
    "load_yaml",
    "parse_text",
    "parse_value",
    "plain_value",
    "read_bounded",
    "read_yaml",
    "shown",
]

MAX_BYTES = 4 * 2**20
MAX_NODES = 100_000
MAX_DEPTH = 100
_SHORT = 2 * MAX_DEPTH
_SHOWN = 120

# libyaml, if PyYAML has it, is about ten times as fast as the Python parser and reads the same values.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
# What PyYAML raises for `!!int x`, `!!bool x`, `!!float x`, `!!timestamp x`, or more than 4,300 digits.
_BAD_VALUE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Loader(_SafeLoader):
    """YAML without tags that run code, reading ``1e-3`` as a number as RecBole does. A date is text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != _TIMESTAMP]
        for first, pairs in _SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$"),
    list("-+0123456789."),
)


def parse_value(text: Any, source: str = "command line") -> Any:
    """Read a command-line value as YAML: ``"1e-3"`` is a number, ``"[a, b]"`` a list, ``""`` stays empty.

    Text that is no YAML stays text.

    Args:
        text: The value; a value that is no text is returned in YAML's types (:func:`plain_value`).
        source: Where the value was given and its key, for the error.

    Raises:
        UserError: If a mapping in the text names a key twice.

    >>> parse_value("1e-3"), parse_value("[10, 20]"), parse_value("None"), parse_value("True")
    (0.001, [10, 20], None, True)
    """
    if not isinstance(text, str) or not text.strip():
        return plain_value(text)
    if text == "None":
        return None
    try:
        return load_yaml(text)
    except RepeatedKeyError as error:
        raise UserError(f"{source}={shown(text)}: {error}; keep one") from None
    except ValueError:
        return text


def plain_value(value: Any) -> Any:
    """Return a value of Python as YAML would give it: numbers of numpy, paths and tuples have no YAML form.

    >>> import numpy as np
    >>> plain_value({"topk": (np.int64(5), 10), "learning_rate": np.float64(0.5), "data_path": Path("a")})
    {'topk': [5, 10], 'learning_rate': 0.5, 'data_path': 'a'}
    """
    if isinstance(value, Mapping):
        return {key: plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    if isinstance(value, PurePath):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value  # numbers and arrays of numpy


def parse_text(text: str, *, optional: bool = False) -> str | None:
    """Read the value of a text option: the text itself, or what stands between quotation marks.

    Args:
        text: The value; ``#``, ``&`` and words that YAML reads as another type are text.
        optional: Whether ``None``, ``null`` and ``~`` mean no value.

    >>> parse_text("runs/try #2"), parse_text("2024"), parse_text("'a: b'"), parse_text("~", optional=True)
    ('runs/try #2', '2024', 'a: b', None)
    """
    if optional and text in ("None", "null", "Null", "NULL", "~"):
        return None
    value = parse_value(text) if text.startswith(("'", '"')) else text
    return value if isinstance(value, str) else text


def read_yaml(path: Path, option: str = "--config_files") -> dict[str, Any]:
    """Read a YAML mapping; keys become text.

    Args:
        path: The file.
        option: The option that names the file, for the error.

    Raises:
        UserError: With file and line, if the file is absent, larger than 4 MiB or no regular file, or if its
            content is no YAML mapping.
    """
    try:
        regular_file(path, "configuration file", f"check {option}")
        content = load_yaml(read_bounded(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: {error}; save the file as UTF-8") from None
    except YamlError as error:
        raise UserError(f"{path}{error.place}: {error}; fix the YAML") from None
    except ValueError as error:
        raise UserError(f"{shown(str(path))}: cannot be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}; write `key: value` lines")
    return {str(key): value for key, value in content.items()}


class YamlError(ValueError):
    """What is wrong in a YAML text, in one line.

    Attributes:
        place: ``", line 3"``, or "" where the line is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.place = "" if line is None else f", line {line + 1}"


class RepeatedKeyError(YamlError):
    """A mapping names a key twice; PyYAML would keep the last value."""


def load_yaml(text: str) -> Any:
    """Return the value that a YAML text holds.

    Args:
        text: One document. Aliases count as often as they occur.

    Raises:
        YamlError: If the text is no YAML, a value does not match its tag, a mapping names a key twice, values
            are nested more than 100 deep, or there are more than 100,000 of them.
    """
    try:
        if len(text) > _SHORT:  # a shorter text cannot be nested deeply
            _check_depth(text)
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _n_nodes(node, {}) > MAX_NODES:
                raise YamlError(f"more than {MAX_NODES:,} values, or an alias within itself")
            return _construct(loader, node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise YamlError(_one_line(getattr(error, "problem", None) or "not YAML"), line) from None
    except RecursionError:
        raise YamlError(f"values are nested more than {MAX_DEPTH} deep") from None


def shown(value: Any, limit: int = _SHOWN) -> str:
    """Return a value as an error prints it: its ``repr``, shortened to ``limit`` characters.

    >>> shown("a" * 500, limit=10)
    "'aaaaaa..."
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * limit:
        return f"{'-' if value < 0 else ''}(an integer of {value.bit_length():,} bits)"
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def read_bounded(path: Path) -> str:
    """Return the text of a file of at most 4 MiB.

    Raises:
        OSError: If the file is absent or larger.
        UnicodeDecodeError: If the text is not UTF-8.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise OSError(f"{size:,} bytes; a configuration has at most {MAX_BYTES:,}")
    return path.read_text(encoding="utf-8")


def _check_depth(text: str) -> None:
    """Refuse deep nesting before a tree is built, which would need one stack frame or more a level."""
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line if event.start_mark else None
            raise YamlError(f"values are nested more than {MAX_DEPTH} deep", line)


def _n_nodes(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the nodes below one, an alias as often as it occurs; infinity for an alias within itself.

    Each mapping is visited once, before merge keys (``<<``) are resolved, so its own keys are checked here.
    """
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts: Any = node.value if not isinstance(node, yaml.ScalarNode) else ()
        if isinstance(node, yaml.MappingNode):
            _refuse_repeats(node)
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_n_nodes(part, known) for part in parts)
    return known[id(node)]


def _refuse_repeats(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE):
        line = key.start_mark.line
        if key.value in lines:
            first = f", first in line {lines[key.value] + 1}" if lines[key.value] != line else ""
            raise RepeatedKeyError(f"{shown(key.value)} is given twice{first}", line)
        lines[key.value] = line


def _construct(loader: Any, node: yaml.Node) -> Any:
    """Make the value of a node; an error names the line of the innermost node that fails."""
    try:
        return loader.construct_document(node)
    except _BAD_VALUE as error:
        if isinstance(error, yaml.YAMLError):
            raise
        parts: Any = node.value if not isinstance(node, yaml.ScalarNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        for part in parts:
            _construct(Loader(""), part)
        kind = node.tag.rpartition(":")[2]
        text = shown(node.value, 40) if isinstance(node, yaml.ScalarNode) else "this"
        raise YamlError(f"{text} is no {kind}", node.start_mark.line) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
