"""The one rule for booleans: the words that mean True and False."""

from __future__ import annotations

from recbole_siger.errors import UserError

__all__ = ["is_flag_word", "parse_flag", "read_flag"]

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def is_flag_word(text: str) -> bool:
    """Return whether ``text`` is true, false, yes, no, 1 or 0, in any case."""
    return text.lower() in _WORDS


def parse_flag(text: str) -> bool | str:
    """Return the boolean that ``text`` means; any other text is returned as it is.

    >>> parse_flag("True"), parse_flag("no"), parse_flag("maybe")
    (True, False, 'maybe')
    """
    return _WORDS.get(text.lower(), text)


def read_flag(key: str, text: str) -> bool:
    """Return the boolean that was typed for ``--key``.

    Raises:
        UserError: If ``text`` means neither True nor False.
    """
    value = parse_flag(text)
    if not isinstance(value, bool):
        raise UserError(f"command line: --{key}={text}: write --{key} alone, or =True or =False")
    return value
