"""The k-core and the removal of repeated pairs, against loops that do it one row at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.prepare.filters import first_of_pairs, k_core

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=60)


def slow_k_core(rows: list[tuple[int, int]], k: int) -> list[bool]:
    """Remove one user or item at a time, the last found first, until none has too few rows."""
    alive = [True] * len(rows)
    while True:
        users = Counter(user for (user, _), stays in zip(rows, alive, strict=True) if stays)
        items = Counter(item for (_, item), stays in zip(rows, alive, strict=True) if stays)
        few = [("user", key) for key, n in users.items() if n < k]
        few += [("item", key) for key, n in items.items() if n < k]
        if not few:
            return alive
        what, key = few[-1]
        alive = [
            stays and (user if what == "user" else item) != key
            for (user, item), stays in zip(rows, alive, strict=True)
        ]


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


@given(PAIRS, st.integers(0, 4))
def test_k_core_is_the_slow_one(rows: list[tuple[int, int]], k: int) -> None:
    assert k_core(*columns(rows), k).tolist() == slow_k_core(rows, k)


def test_k_core_falls_apart_one_after_the_other() -> None:
    """A path of users and items: each end that goes takes the next along."""
    user = np.array([0, 0, 1, 1, 2, 2, 3])
    item = np.array([0, 1, 1, 2, 2, 3, 3])
    assert not k_core(user, item, 2).any()
    assert k_core(user, item, 1).all()
    assert k_core(user[:0], item[:0], 5).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_the_earliest_row_of_a_pair_stays(rows: list[tuple[int, int, int]]) -> None:
    earliest: dict[tuple[int, int], int] = {}
    for place, (user, item, time) in enumerate(rows):
        best = earliest.get((user, item))
        if best is None or time < rows[best][2]:
            earliest[user, item] = place
    array = np.array(rows, dtype=np.int64).reshape(-1, 3)
    marked = first_of_pairs(array[:, 0], array[:, 1], array[:, 2].astype(float))
    assert np.flatnonzero(marked).tolist() == sorted(earliest.values())


def test_without_times_the_first_row_stays() -> None:
    one = np.array([4, 4, 4])
    assert first_of_pairs(one, one, None).tolist() == [True, False, False]
