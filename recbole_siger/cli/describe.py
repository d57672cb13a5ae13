"""Tell what can be configured, and what a configuration comes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recbole_siger.config import Config
from recbole_siger.options.keys import keys_of
from recbole_siger.options.resources import find_resource
from recbole_siger.registry import recbole_root

__all__ = ["print_effective", "print_options"]

_COMMENT = re.compile(r"^(\w+):.*?#\s*\(([^)]*)\)\s*(.*?)\s*$")


def _console() -> Console:
    # Wide where there is no terminal, so that a table piped to a file or to grep is not cut.
    console = Console()
    return console if console.is_terminal else Console(width=180)


def print_effective(
    model: str | None, dataset: str | None, files: Sequence[str], values: Mapping[str, str]
) -> None:
    """Print each effective value and where it came from; nothing is trained or written."""
    config = Config(model, dataset, files, command_line=values)
    table = Table(
        "key", "value", "from", title=f"{config['model']} on {config['dataset']}", title_justify="left"
    )
    for key in sorted(config.origin):
        table.add_row(key, str(config[key]), config.origin[key])
    _console().print(table)


def print_options(model: str, dataset: str | None = None) -> None:
    """Print every option of a model, for one dataset or any: default, range and meaning, its own first."""
    config = Config(model, dataset or "NAME")
    ranges = {option.name: option.range for option in config.options()}
    sources = [f"model/{model}.yaml", "overall.yaml", "dataset/sample.yaml"]
    listed: set[str] = set()
    for relative in sources:
        meanings: dict[str, tuple[str, str]] = {}
        for path in (recbole_root() / "properties" / relative, find_resource(f"properties/{relative}")):
            if path is not None and path.is_file():
                meanings |= read_meanings(path)
        skipped = listed | keys_of("unused", "pickle")
        rows = [key for key in meanings if key not in skipped and key in config.origin]
        listed.update(rows)
        if rows:
            table = Table(
                "option", "default", "type", "range", "meaning", title=relative, title_justify="left"
            )
            for key in rows:
                kind, meaning = meanings[key]
                table.add_row(key, str(config[key]), kind, ranges.get(key, ""), meaning)
            _console().print(table)


def read_meanings(path: Path) -> dict[str, tuple[str, str]]:
    """Read ``key: value  # (type) meaning`` comments: ``{key: (type, meaning)}``; keys without one too."""
    found: dict[str, tuple[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _COMMENT.match(line):
            found[match[1]] = (match[2], match[3])
        elif key := re.match(r"^(\w+):", line):
            found[key[1]] = ("", "")
    return found
