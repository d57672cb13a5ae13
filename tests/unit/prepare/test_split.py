"""Splits: sizes as MMRec's, nobody left out, nothing after what it should precede."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.prepare.split import leave_one_out, split_random, split_temporal

REAL = Path(__file__).parents[4] / "shared" / "data"

USERS = st.lists(st.integers(0, 5), max_size=80)
RATIOS = st.tuples(*[st.integers(1, 9)] * 3)


def mmrec_labels(n_items: int) -> list[int]:
    """What MMRec's ``preprocessing/1splitting.ipynb`` gives a user of ``n_items`` >= 2 shuffled rows."""
    if n_items < 10:
        return [0] * (n_items - 2) + [1, 2]
    held = int(n_items * 0.2)
    return [0] * (n_items - held) + [1] * (held // 2) + [2] * (held - held // 2)


@pytest.mark.parametrize("n_items", [3, 5, 9, 10, 11, 14, 15, 19, 20, 35, 997])
def test_random_sizes_are_mmrecs(n_items: int) -> None:
    labels = split_random(np.zeros(n_items, dtype=np.int64), (8, 1, 1), seed=3)
    assert sorted(labels.tolist()) == sorted(mmrec_labels(n_items))


@pytest.mark.parametrize("name", ["baby", "sports"])
def test_random_sizes_are_those_of_the_published_splits(name: str) -> None:
    path = REAL / name / f"{name}.inter"
    if not path.is_file():
        pytest.skip(f"skips the sizes of {name}'s split: {path} is not there")
    inter = pd.read_csv(path, sep="\t")
    ours = split_random(inter["userID"].to_numpy(), (8, 1, 1), seed=0)
    assert np.bincount(ours).tolist() == inter["x_label"].value_counts().sort_index().tolist()


@given(USERS, RATIOS, st.integers(0, 99))
def test_random_splits_every_user(users: list[int], ratios: tuple[int, int, int], seed: int) -> None:
    user = np.array(users, dtype=np.int64)
    labels = split_random(user, ratios, seed)
    assert labels.tolist() == split_random(user, ratios, seed).tolist()
    for one in set(users):
        sizes = np.bincount(labels[user == one], minlength=3)
        n_rows = int(sizes.sum())
        if n_rows < 3:
            assert sizes.tolist() == [n_rows, 0, 0]
        elif n_rows < 10:
            assert sizes.tolist() == [n_rows - 2, 1, 1]
        else:
            held = n_rows * (ratios[1] + ratios[2]) // sum(ratios)
            assert sizes.min() >= 1
            assert int(sizes[1] + sizes[2]) == max(held, 2)


@pytest.mark.parametrize(
    ("ratios", "n_rows", "sizes"),
    [((80, 5, 15), 10, [8, 1, 1]), ((80, 5, 15), 15, [12, 1, 2]), ((1, 1, 9), 10, [1, 1, 8])],
)
def test_a_small_share_of_validation_is_taken_from_test(
    ratios: tuple[int, int, int], n_rows: int, sizes: list[int]
) -> None:
    assert np.bincount(split_random(np.zeros(n_rows, dtype=np.int64), ratios, seed=0)).tolist() == sizes


def test_random_is_random_and_even() -> None:
    """Each of a user's ten places is as likely in test as any other; the seed decides which."""
    user = np.repeat(np.arange(5_000), 10)
    labels = split_random(user, (8, 1, 1), seed=1)
    share = (labels.reshape(-1, 10) == 2).mean(axis=0)
    assert np.abs(share - 0.1).max() < 0.02
    assert (labels != split_random(user, (8, 1, 1), seed=2)).any()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=50))
def test_leave_one_out_against_a_loop(rows: list[tuple[int, int]]) -> None:
    expected, of_user = [0] * len(rows), defaultdict(list)
    for place, (user, _) in enumerate(rows):
        of_user[user].append(place)
    for places in of_user.values():
        ordered = sorted(places, key=lambda place: rows[place][1])
        if len(ordered) >= 3:
            expected[ordered[-1]], expected[ordered[-2]] = 2, 1
    array = np.array(rows, dtype=np.int64).reshape(-1, 2)
    assert leave_one_out(array[:, 0], array[:, 1].astype(float)).tolist() == expected


@given(st.lists(st.integers(0, 30), max_size=60), RATIOS)
def test_temporal_never_looks_back(times: list[int], ratios: tuple[int, int, int]) -> None:
    timestamp = np.array(times, dtype=float)
    labels = split_temporal(timestamp, ratios)
    assert len(labels) == len(times)
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if (labels == earlier).any() and (labels == later).any():
            assert timestamp[labels == earlier].max() < timestamp[labels == later].min()


def test_temporal_sizes_where_all_times_differ() -> None:
    times = np.random.default_rng(0).permutation(1000).astype(float)
    assert np.bincount(split_temporal(times, (7, 1, 2))).tolist() == [700, 100, 200]


def test_a_time_that_crosses_a_border_stays_together() -> None:
    assert split_temporal(np.zeros(10), (8, 1, 1)).tolist() == [2] * 10
