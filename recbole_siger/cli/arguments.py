"""Words of a command line as positions, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_siger.errors import UserError

__all__ = ["one_run_folder", "read_keys", "read_options", "single_values"]


def read_options(
    words: Sequence[str], flags: Sequence[str] = (), lists: Sequence[str] = ()
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split words into positional ones and ``(key, value)`` of ``--key=value``, ``--key value`` or a flag.

    A key may be written with ``-`` for ``_``. A key of ``lists`` takes the words up to the next key, as a
    shell leaves ``--out t.{md,tex}``.
    """
    short = {"-m": "--model", "-d": "--dataset"}
    positional: list[str] = []
    found: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            positional.append(word)
            continue
        key, equals, value = short.get(word, word).partition("=")
        name = key.removeprefix("--").replace("-", "_")
        if not key.startswith("--") or not name:
            raise UserError(f"command line: cannot read {word!r}; write --key=value")
        if not equals and name in flags:
            value = "True"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"command line: --{name} has no value; write --{name}=VALUE")
            value = rest.pop(0)
        found.append((name, value))
        while name in lists and rest and not rest[0].startswith("-"):
            found.append((name, rest.pop(0)))
    return positional, found


def read_keys(
    words: Sequence[str], flags: Sequence[str] = (), lists: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return what :func:`read_options` finds, for a command that takes no positional words.

    Raises:
        UserError: If there is one.
    """
    positional, found = read_options(words, flags, lists)
    if positional:
        raise UserError(f"command line: cannot place {positional[0]!r}; write --key=value")
    return found


def single_values(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return each key's one value; refuse a key that is given twice with different ones."""
    values: dict[str, str] = {}
    for key, value in found:
        if values.setdefault(key, value) != value:
            raise UserError(
                f"command line: --{key} is given twice, as {values[key]!r} and {value!r}; keep one"
            )
    return values


def one_run_folder(words: Sequence[str], command: str) -> tuple[Path, str | None, str | None]:
    """Return the run folder that a command takes, and ``data_path`` and ``model`` where they are given."""
    positional, found = read_options(words)
    values = single_values(found)
    if len(positional) != 1 or set(values) - {"data_path", "model"}:
        raise UserError(
            f"command line: write `recbole-siger {command} RUN_DIR [--data_path=FOLDER] [--model=NAME]`"
        )
    return Path(positional[0]), values.get("data_path"), values.get("model")
