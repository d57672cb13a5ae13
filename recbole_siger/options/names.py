"""Names that become a part of a path: one rule, so that no name leads out of its folder."""

from __future__ import annotations

import re
from typing import Any

from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import shown

__all__ = ["check_dataset_name"]

_LONGEST = 100


def check_dataset_name(name: Any, source: str = "configuration", key: str = "dataset") -> str:
    """Return the name of a dataset, which is the name of a folder and of files in it.

    Args:
        name: Letters, digits, ``-``, ``_`` and ``.``, the first a letter, a digit or ``_``; at most 100.
        source: Where the name was given, for the error.
        key: The option that gives the name, for the error.

    Raises:
        UserError: For anything else, such as ``../x``.
    """
    if isinstance(name, int | float) and not isinstance(name, bool):
        raise UserError(
            f"{source}: {key}={shown(name)} is a number; write the name in quotation marks, as in "
            f"{key}: '007'"
        )
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or len(name) > _LONGEST:
        raise UserError(
            f"{source}: {key}={shown(name)}: use letters, digits, '-', '_' and '.', at most {_LONGEST}, "
            "such as 'shop'"
        )
    return name
