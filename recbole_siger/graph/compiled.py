"""Loops that no tensor operation does well, compiled by numba when they are first called.

Import this module only where a loop is needed: it imports numba. A kernel is compiled once a process, in about
a second, and kept nowhere; its callers choose it from the amount of work on.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = ["co_occurrences", "dot_products"]

Array = np.ndarray[Any, Any]


@numba.njit(nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _dot_products(x: Array, i: Array, j: Array, out: Array) -> None:
    for pair in range(len(i)):
        a, b = x[i[pair]], x[j[pair]]
        total = 0.0
        for f in range(x.shape[1]):
            total += np.float64(a[f]) * np.float64(b[f])
        out[pair] = total


def dot_products(x: Array, i: Array, j: Array) -> Array:
    """Return the inner products of rows ``i`` and ``j`` of ``x``, each ``(n,)``, summed in float64."""
    out = np.empty(len(i))
    _dot_products(x, i, j, out)
    return out
