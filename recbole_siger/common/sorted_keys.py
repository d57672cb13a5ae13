"""Distinct integers in ascending order, and membership in them.

``numpy.unique`` of numpy 2.3 and later puts integers into a hash table. For millions of distinct integers,
that is 20 times as slow as numpy's sort with vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["contains", "distinct"]


def distinct(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct numbers, ascending.

    Args:
        numbers: Integers, shape ``(n,)``.

    Example:
        >>> distinct(np.array([5, 2, 5])).tolist()
        [2, 5]
    """
    ordered = np.sort(numbers)
    kept = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=kept[1:])
    return ordered if kept.all() else ordered[kept]


def contains(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which numbers are among the keys.

    Args:
        keys: Integers, ascending, shape ``(n,)``.
        wanted: Integers, any shape.

    Returns:
        The shape of ``wanted``.

    Example:
        >>> contains(np.array([2, 5]), np.array([5, 3, 9])).tolist()
        [True, False, False]
    """
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool)
    place = np.searchsorted(keys[:-1], wanted)  # the last key need not be searched beyond
    found: NDArray[np.bool_] = keys[place] == wanted
    return found
