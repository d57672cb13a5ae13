"""The seeds of an option."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import parse_value

__all__ = ["MAX_COUNTED", "seed_list"]

MAX_COUNTED = 1000
"""The largest number of seeds; more are a typing error, such as a seed in place of a number."""


def seed_list(seeds: int | str | Sequence[int], first: int) -> list[int]:
    """Return the seeds of an option: a number of seeds, counted up from ``first``, or a list.

    >>> seed_list("3", 2020), seed_list("7,9", 2020), seed_list("[7]", 2020)
    ([2020, 2021, 2022], [7, 9], [7])

    Raises:
        UserError: If there is no seed, a seed is repeated, or the number is above 1,000.
    """
    number = parse_value(seeds)
    if type(number) is int and number >= 1:
        if number > MAX_COUNTED:
            raise UserError(
                f"--seeds={seeds}: at most {MAX_COUNTED:,} seeds are counted; write fewer, or list them"
            )
        return list(range(first, first + number))
    listed = parse_value(f"[{seeds}]") if isinstance(number, str) and "," in number else number
    several = list(listed) if isinstance(listed, list | tuple) else []
    if not several or not all(type(seed) is int for seed in several) or len({*several}) != len(several):
        raise UserError(
            f"--seeds={seeds}: write a number of seeds, or a list of different seeds such as 2020,2021"
        )
    return several
