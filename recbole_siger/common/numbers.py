"""Integers in text."""

from __future__ import annotations

import re

__all__ = ["whole_number"]


def whole_number(text: str) -> int | None:
    """Return the integer >= 0 that digits write; None for other text, and for more than 18 digits.

    Python refuses to read more than 4,300 digits, so a caller would end with a traceback.

    >>> whole_number("007"), whole_number("-1"), whole_number("9" * 5000)
    (7, None, None)
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None
