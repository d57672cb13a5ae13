"""Lists of items and hits against sets and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.evaluation.metrics import average_precision, mrr, ndcg
from recbole_siger.evaluation.ranking import (
    ItemLists,
    hits_at_k,
    top_k,
)

N_USERS, N_ITEMS = 5, 7
PAIRS = st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)), max_size=40)
USERS = st.lists(st.integers(0, N_USERS - 1), max_size=11)


def lists(pairs: list[tuple[int, int]]) -> ItemLists:
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return ItemLists.from_pairs(users, items, N_USERS, N_ITEMS)


def as_sets(found: ItemLists) -> list[list[int]]:
    return [found.items[a:b].tolist() for a, b in zip(found.indptr[:-1], found.indptr[1:], strict=True)]


def by_hand(pairs: list[tuple[int, int]]) -> list[list[int]]:
    return [sorted({item for user, item in pairs if user == one}) for one in range(N_USERS)]


@given(PAIRS)
def test_pairs_become_sorted_sets(pairs: list[tuple[int, int]]) -> None:
    found = lists(pairs)
    assert found.indptr.shape == (N_USERS + 1,)
    assert found.indptr.dtype == found.items.dtype == np.int64
    assert as_sets(found) == by_hand(pairs)
    assert found.users.tolist() == [user for user, items in enumerate(by_hand(pairs)) if items]


@given(PAIRS, PAIRS)
def test_without_takes_pairs_away(pairs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    found = lists(pairs).without(lists(others), N_ITEMS)
    assert as_sets(found) == by_hand([pair for pair in pairs if pair not in others])


@given(PAIRS, USERS)
def test_of_users_in_any_order_and_number(pairs: list[tuple[int, int]], users: list[int]) -> None:
    rows, items = lists(pairs).of(np.array(users, dtype=np.int64))
    expected = [(row, item) for row, user in enumerate(users) for item in by_hand(pairs)[user]]
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == expected


@settings(max_examples=50)
@given(PAIRS, st.integers(1, N_ITEMS), st.integers(0, 2**31 - 1))
def test_hits_are_relevant_recommendations(pairs: list[tuple[int, int]], k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top = torch.from_numpy(np.stack([rng.permutation(N_ITEMS)[:k] for _ in range(N_USERS)]))
    row, item = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    found = hits_at_k(top, row, item, N_ITEMS)
    assert found.dtype == torch.bool
    assert found.tolist() == [[(user, i) in pairs for i in items] for user, items in enumerate(top.tolist())]


def test_the_last_item_of_one_row_is_not_the_first_of_the_next() -> None:
    top = torch.tensor([[6, 0], [0, 6]])
    assert hits_at_k(top, torch.tensor([0]), torch.tensor([6]), 7).tolist() == [[True, False], [False, False]]


def test_no_users_and_no_pairs() -> None:
    none = lists([])
    assert none.users.tolist() == []
    rows, items = none.of(np.arange(N_USERS))
    assert len(rows) == len(items) == 0
    assert as_sets(none.without(none, N_ITEMS)) == [[]] * N_USERS
    empty = torch.empty(0, dtype=torch.int64)
    assert hits_at_k(torch.empty(0, 3, dtype=torch.int64), empty, empty, N_ITEMS).shape == (0, 3)


@pytest.mark.parametrize("n_items", [50_000, 3_000_000])
def test_ids_beyond_32_bits_do_not_wrap(n_items: int) -> None:
    n_users = 100_000
    users, items = np.array([n_users - 1, 0], dtype=np.int32), np.array([n_items - 1, 5], dtype=np.int32)
    found = ItemLists.from_pairs(users, items, n_users, n_items)
    assert found.users.tolist() == [0, n_users - 1]
    assert found.items.tolist() == [5, n_items - 1]


# ---- the best items

SPECIAL = st.sampled_from([float("-inf"), float("inf"), float("nan"), 0.0, -0.0])


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 700),
    k=st.integers(1, 7),
    n_levels=st.sampled_from([1, 2, 11, 1000, 10**7]),
    special=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 59), SPECIAL), max_size=9),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_best_items_are_those_of_torch(
    width: int, k: int, n_levels: int, special: list[tuple[int, int, float]], seed: int
) -> None:
    """Few levels make ties, many make none; the order among equals is torch's, too."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy((rng.integers(0, n_levels, (5, width)) - n_levels // 2).astype(np.float32))
    for row, column, value in special:
        scores[row, column] = value
    before = scores.clone()
    assert torch.equal(top_k(scores, k), scores.topk(k, dim=1).indices)
    assert torch.equal(scores.nan_to_num(0.5), before.nan_to_num(0.5))


def test_rows_without_ties_never_reach_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(np.stack([rng.permutation(2003) for _ in range(7)]).astype(np.float32))
    expected = scores.topk(5, dim=1).indices
    monkeypatch.setattr(torch.Tensor, "topk", None)
    assert torch.equal(top_k(scores, 5), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_ranked_by_torch(dtype: torch.dtype) -> None:
    scores = torch.rand(3, 503, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(top_k(scores, 2), scores.topk(2, dim=1).indices)


# ---- metrics, against RecBole's loops


@settings(max_examples=60, deadline=None)
@given(
    n_users=st.integers(1, 13),
    n_ranks=st.integers(1, 23),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_metrics_are_recboles_to_the_last_bit(n_users: int, n_ranks: int, share: float, seed: int) -> None:
    from recbole_siger import compat

    compat.apply()
    from recbole.evaluator.metrics import MAP, MRR, NDCG

    rng = np.random.default_rng(seed)
    hits = rng.random((n_users, n_ranks)) < share
    n_relevant = np.maximum(hits.sum(axis=1), 1) + rng.integers(0, 31, n_users)
    loops = {metric: metric.metric_info.__get__(object.__new__(metric)) for metric in (NDCG, MRR, MAP)}
    assert np.array_equal(ndcg(hits, n_relevant), loops[NDCG](hits, n_relevant))
    assert np.array_equal(mrr(hits, n_relevant), loops[MRR](hits))
    assert np.array_equal(average_precision(hits, n_relevant), loops[MAP](hits, n_relevant))


def test_metrics_by_hand() -> None:
    hits, n_relevant = np.array([[True, False, True], [False, False, False]]), np.array([2, 1])
    second, third = 1 / np.log2(3), 1 / 2
    expected = [[1, 1 / (1 + second), (1 + third) / (1 + second)], [0, 0, 0]]
    np.testing.assert_allclose(ndcg(hits, n_relevant), expected, rtol=1e-15)
    np.testing.assert_allclose(mrr(hits, n_relevant), [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(average_precision(hits, n_relevant), [[1, 1 / 2, 5 / 6], [0, 0, 0]])
