"""Distinct integers and membership, against Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.common.sorted_keys import contains, distinct
from recbole_siger.data.sampler import PairSet
from recbole_siger.evaluation.metrics import Ranking
from recbole_siger.evaluation.ranking import ItemLists

NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 7))


@given(NUMBERS, NUMBERS)
def test_as_a_set(numbers: list[int], asked: list[int]) -> None:
    given_numbers, wanted = (np.array(some, dtype=np.int64) for some in (numbers, [*asked, *numbers]))
    keys = distinct(given_numbers)
    assert keys.tolist() == sorted(set(numbers))
    assert given_numbers.tolist() == numbers  # not sorted in place
    assert contains(keys, wanted).tolist() == [number in set(numbers) for number in wanted.tolist()]


def test_sets_of_interactions_meet_no_hash_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 18 million interactions, ``numpy.unique`` took most of the time between reading and training."""
    users, items = np.array([1, 3, 1]), np.array([5, 2, 5])
    monkeypatch.setattr(np, "unique", None)
    lists = ItemLists.from_pairs(users, items, 4, 7)
    assert lists.without(ItemLists.from_pairs(users[:1], items[:1], 4, 7), 7).of(np.arange(4))[
        1
    ].tolist() == [2]
    assert PairSet(users, items, 7).contains(users, items).all()
    ranking = Ranking(np.array([1, 3]), np.array([[5, 2], [5, 4]]), np.array([0, 1]), np.array([5, 2]))
    assert ranking.hits.tolist() == [[True, False], [False, False]]
