"""Training, validation and test rows: at random for each user, the last rows of each user, or by time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Labels", "leave_one_out", "split_random", "split_temporal"]

Labels = NDArray[np.int8]
"""0 (train), 1 (valid) or 2 (test) for each row."""

SMALL_USER = 10
"""A user with fewer rows gives one row to validation and one row to test."""


def split_random(user: NDArray[np.int64], ratios: tuple[int, int, int], seed: int) -> Labels:
    """Split each user's rows at random, as LATTICE and MMRec do.

    A user has n rows, of which ``h = floor(n * (valid + test) / total)`` are held out. Validation gets
    ``floor(h * valid / (valid + test))`` rows, test gets the other held-out rows, each at least one, and
    training gets the rest. A user with fewer than ten rows gives one row to validation and one to test. A
    user with fewer than three rows gives none. With 8:1:1 these sizes equal those of MMRec's
    ``1splitting.ipynb`` and of the published splits of Baby and Sports.

    Args:
        user: User of each row, shape ``(E,)``.
        ratios: Shares of train, valid and test, each >= 1.
        seed: Seed of the draw.

    Returns:
        Labels, shape ``(E,)``.

    Example:
        >>> np.bincount(split_random(np.zeros(15, dtype=np.int64), (8, 1, 1), seed=0)).tolist()
        [12, 1, 2]
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    order = np.lexsort((rng.random(len(user)), user))
    sizes, rank = _ranks(user[order])
    valid, test = _held_out(sizes, ratios)
    labels = np.zeros(len(user), dtype=np.int8)
    labels[order] = (rank >= sizes - valid - test).astype(np.int8) + (rank >= sizes - test)
    return labels


def _held_out(
    sizes: NDArray[np.int64], ratios: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of rows that users with given numbers of rows give to validation and to test."""
    held = sizes * (ratios[1] + ratios[2]) // sum(ratios)
    valid = np.maximum(held * ratios[1] // (ratios[1] + ratios[2]), 1)
    small, none = sizes < SMALL_USER, sizes < 3
    test = np.where(none, 0, np.where(small, 1, np.maximum(held - valid, 1)))
    return np.where(none, 0, np.where(small, 1, valid)), test


def _ranks(user: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of rows of each row's user, and the row's position; a user's rows are adjacent."""
    starts = np.flatnonzero(np.r_[True, np.diff(user) != 0][: len(user)])
    counts = np.diff(np.r_[starts, len(user)])
    return np.repeat(counts, counts), np.arange(len(user)) - np.repeat(starts, counts)


def leave_one_out(user: NDArray[np.int64], timestamp: NDArray[np.float64 | np.int64]) -> Labels:
    """Put each user's last row into test and the second last row into validation.

    Rows with equal times keep their order. A user with fewer than three rows keeps all rows in training.

    Args:
        user: User of each row, shape ``(E,)``.
        timestamp: Time of each row, shape ``(E,)``.

    Returns:
        Labels, shape ``(E,)``.

    Example:
        >>> leave_one_out(np.array([0, 0, 0, 1, 1]), np.array([3.0, 1.0, 2.0, 1.0, 2.0])).tolist()
        [2, 0, 1, 0, 0]
    """
    order = np.lexsort((timestamp, user))
    sizes, rank = _ranks(user[order])
    labels = np.zeros(len(user), dtype=np.int8)
    labels[order] = np.where(sizes < 3, 0, np.clip(rank - sizes + 3, 0, 2))
    return labels


def split_temporal(timestamp: NDArray[np.float64 | np.int64], ratios: tuple[int, int, int]) -> Labels:
    """Put the earliest rows into training, the next rows into validation, the latest rows into test.

    Rows with equal times stay together, in the later split, so that the time ranges of splits do not overlap.

    Args:
        timestamp: Time of each row, shape ``(E,)``.
        ratios: Shares of train, valid and test, each >= 1.

    Returns:
        Labels, shape ``(E,)``; a split may be empty if many rows have the same time.

    Example:
        >>> split_temporal(np.array([5.0, 1.0, 2.0, 2.0]), (2, 1, 1)).tolist()
        [2, 0, 1, 1]
    """
    if not len(timestamp):
        return np.zeros(0, dtype=np.int8)
    ordered = np.sort(timestamp)
    cuts = [len(ordered) * share // sum(ratios) for share in (ratios[0], ratios[0] + ratios[1])]
    first_valid, first_test = ordered[cuts[0]], ordered[cuts[1]]
    return ((timestamp >= first_valid).astype(np.int8) + (timestamp >= first_test)).astype(np.int8)
