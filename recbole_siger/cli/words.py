"""Words of a command line in one spelling: ``--key=value`` for every key, then the words without a key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from recbole_siger.errors import UserError
from recbole_siger.options.flags import is_flag_word

__all__ = ["single_values", "split_words"]

Pairs = list[tuple[str, str]]

_SHORT = {"-m": "--model", "-d": "--dataset"}
_DASHED = {"time_aware": "time-aware"}
"""Keys of RecBole's models that are spelled with a dash."""


def split_words(
    words: Sequence[str],
    *,
    flags: Callable[[str], bool] = lambda key: False,
    known: Callable[[str], bool] = lambda key: True,
    lists: Collection[str] = (),
    positional: bool = False,
) -> tuple[list[str], Pairs]:
    """Split words into those without a key, and ``(key, value)`` of ``--key=value`` or ``--key value``.

    A key may be typed with ``-`` for ``_``, and ``_`` for ``-``. A flag needs no value. A key of ``lists``
    takes the words up to the next key, as a shell makes them of ``--out t.{md,tex}``.

    Args:
        words: What was typed after the command.
        flags: Says of a key whether the key is a flag.
        known: Says of a key whether the key is known. The value of an unknown key at the end of the line, or
            before another key, is "True", so that the error is about the key and not about its value.
        lists: Keys that take several words.
        positional: Whether the command takes words without a key. If not, a flag takes a following true,
            false, yes, no, 1 or 0 as its value.

    Raises:
        UserError: For a word that cannot be read, or a key without a value.
    """
    alone: list[str] = []
    found: Pairs = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            alone.append(word)
            continue
        key, equals, value = _SHORT.get(word, word).partition("=")
        name = key.removeprefix("--").replace("-", "_")
        name = _DASHED.get(name, name)
        if not key.startswith("--") or not name:
            raise UserError(f"command line: cannot read {word!r}; write --key=value")
        if not equals:
            value = _following(name, rest, flags, known, positional)
        found.append((name, value))
        while name in lists and rest and not rest[0].startswith("-"):
            found.append((name, rest.pop(0)))
    return alone, found


def _following(
    name: str,
    rest: list[str],
    flags: Callable[[str], bool],
    known: Callable[[str], bool],
    positional: bool,
) -> str:
    """Return the value of a key that was typed without ``=``; take it out of ``rest``."""
    if rest and not rest[0].startswith("--") and not flags(name):
        return rest.pop(0)
    if not flags(name) and known(name):
        raise UserError(f"command line: --{name} has no value; write --{name}=VALUE")
    if rest and not rest[0].startswith("--") and not positional:
        return rest.pop(0) if is_flag_word(rest[0]) else "True"
    return "True"


def single_values(found: Pairs) -> dict[str, str]:
    """Return each key's one value.

    Raises:
        UserError: If a key is given twice with different values.
    """
    values: dict[str, str] = {}
    for key, value in found:
        if values.setdefault(key, value) != value:
            raise UserError(
                f"command line: --{key} is given twice, as {values[key]!r} and {value!r}; keep one"
            )
    return values
