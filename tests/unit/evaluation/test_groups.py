"""Who belongs to a slice, and what is told of it."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.evaluation.groups import (
    ColdSet,
    by_activity,
    by_coverage,
    by_popularity,
    slice_items,
    slice_users,
)
from recbole_siger.evaluation.metrics import Ranking, user_metrics


def members(groups: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()}


def test_popularity_by_hand() -> None:
    """30 rows: the head takes 6 or more, the tail 6 or less."""
    counts = np.array([0, 5, 0, 7, 4, 1, 9, 2, 2])
    # By popularity: 6 (9), 3 (7), 1 (5), 4 (4), 7 (2), 8 (2), 5 (1); the last three have 5 rows, with 4 nine.
    expected = {"head": [6], "middle": [1, 3, 4], "tail": [5, 7, 8], "none": [2]}
    assert members(by_popularity(counts)) == expected


def test_popularity_where_the_bounds_are_met_exactly() -> None:
    """Ten rows: the head takes 2 or more, the tail 2 or less."""
    expected = {"head": [1], "middle": [2, 3], "tail": [4, 5], "none": []}
    assert members(by_popularity(np.array([0, 4, 2, 2, 1, 1]))) == expected
    assert members(by_popularity(np.array([0, 2, 2, 2, 2, 2]))) == {
        "head": [1],
        "middle": [2, 3, 4],
        "tail": [5],
        "none": [],
    }


@given(st.lists(st.integers(0, 20), min_size=1, max_size=31))
def test_every_item_has_one_group_by_popularity(counts: list[int]) -> None:
    table = np.array([0, *counts])
    groups = by_popularity(table)
    assert np.sum(list(groups.values()), axis=0).tolist() == [0, *[1] * len(counts)]
    assert table[groups["tail"]].sum() <= 0.2 * table.sum()
    assert table[groups["head"]].sum() >= 0.2 * table.sum()
    some = [table[groups[name]] for name in ("head", "middle", "tail", "none")]
    kept = [part for part in some if len(part)]
    assert all(a.min() >= b.max() for a, b in pairwise(kept))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=31), st.data())
def test_every_evaluated_user_has_one_group_by_activity(counts: list[int], data: st.DataObject) -> None:
    table = np.array([0, *counts])
    users = np.array(sorted(data.draw(st.sets(st.integers(1, len(counts))))), dtype=np.int64)
    groups = by_activity(table, users)
    assert np.flatnonzero(np.sum(list(groups.values()), axis=0)).tolist() == users.tolist()
    low, medium, high = (table[groups[name]] for name in ("low", "medium", "high"))
    assert max(low, default=0) < min(medium, default=99)
    assert max(medium, default=0) < min(high, default=99)


def test_activity_by_hand() -> None:
    """Seven evaluated users have rows: the third has 2 and the fifth has 5. The others move no bound."""
    counts = np.array([0, 13, 1, 99, 2, 0, 8, 1, 99, 3, 5, 0])
    expected = {"none": [5], "low": [2, 4, 7], "medium": [9, 10], "high": [1, 6]}
    assert members(by_activity(counts, np.array([1, 2, 4, 5, 6, 7, 9, 10]))) == expected


def test_coverage_by_hand() -> None:
    has = {
        "image": np.array([False, True, True, False]),
        "text": np.array([False, True, False, False]),
        "audio": np.array([False, True, False, False]),
    }
    assert members(by_coverage(has)) == {"complete": [1], "partial": [2], "none": [3]}


RANKING = Ranking(
    users=np.array([2, 5, 6]),
    items=np.array([[1, 2], [3, 4], [4, 1]]),
    pair_row=np.array([0, 0, 1, 2]),
    pair_item=np.array([2, 3, 3, 2]),
)


def test_item_slices_by_hand() -> None:
    """Item 2: found by user 2 at rank 2, not by user 6. Item 3: by user 5 at rank 1, not by user 2."""
    groups = {"two": np.array([0, 0, 1, 0, 0], bool), "three": np.array([0, 1, 0, 1, 0], bool)}
    assert slice_items(RANKING, groups, [1, 2], ["recall"]) == {
        "two": {"n_items": 1, "n_users": 2, "recall@1": 0.0, "recall@2": 0.5},
        "three": {"n_items": 2, "n_users": 2, "recall@1": 0.5, "recall@2": 0.5},
    }


def test_user_slices_by_hand() -> None:
    groups = {"a": np.array([0, 0, 1, 0, 0, 1, 0], bool), "b": np.array([0, 0, 0, 0, 0, 0, 1], bool)}
    assert slice_users(RANKING, groups, [2], ["recall", "hit"]) == {
        "a": {"n_users": 2, "recall@2": 0.75, "hit@2": 1.0},
        "b": {"n_users": 1, "recall@2": 0.0, "hit@2": 0.0},
    }


def test_a_slice_without_members_has_no_metrics() -> None:
    nobody = {"nobody": np.zeros(7, bool)}
    found = {**slice_users(RANKING, nobody, [2]), "items": slice_items(RANKING, nobody, [2])["nobody"]}
    assert found == {"nobody": {"n_users": 0}, "items": {"n_items": 0, "n_users": 0}}
    json.dumps(found, allow_nan=False)


def test_slices_by_users_average_to_the_whole() -> None:
    groups = {"a": np.array([0, 0, 1, 0, 0, 1, 0], bool), "b": np.array([0, 0, 0, 0, 0, 0, 1], bool)}
    found = slice_users(RANKING, groups, [2])
    for name, values in user_metrics(RANKING, [2]).items():
        whole = sum(part["n_users"] * part[name] for part in found.values()) / 3
        assert whole == pytest.approx(values.mean())


def test_cold_and_warm_pairs_part_a_ranking() -> None:
    cold = ColdSet(np.array([0, 0, 0, 1, 0], bool), None, alone=False)
    parts = cold.split(RANKING)
    assert {name: part.users.tolist() for name, part in parts.items()} == {"cold": [2, 5], "warm": [2, 6]}
    everyone = ColdSet(None, np.ones(7, bool), alone=False)
    assert list(everyone.split(RANKING)) == ["cold"]
