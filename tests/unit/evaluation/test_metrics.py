"""Metrics against RecBole's own, loops over scalars, and values worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.evaluation.metrics import USER_METRICS, Ranking, beyond_accuracy, chance, user_metrics

N_USERS, N_ITEMS, K = 37, 29, 11
TOPK = [1, 3, 11]


def make_ranking(seed: int = 0) -> Ranking:
    """Random lists without padding; every user has from 1 to 17 items to find, more than K for some."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(N_ITEMS - 1)[:K] + 1 for _ in range(N_USERS)])
    wanted = [rng.permutation(N_ITEMS - 1)[: rng.integers(1, 18)] + 1 for _ in range(N_USERS)]
    rows = np.repeat(np.arange(N_USERS), [len(one) for one in wanted])
    return Ranking(np.arange(5, 5 + N_USERS), items, rows, np.concatenate(wanted))


def make_counts(seed: int = 1) -> np.ndarray[Any, Any]:
    counts = np.random.default_rng(seed).integers(0, 9, N_ITEMS)
    counts[0] = 0
    return counts


class Struct(dict[str, Any]):
    """RecBole's DataStruct, as far as its metrics read it."""

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]


@pytest.fixture(scope="module")
def theirs() -> Any:
    from recbole_siger import compat

    compat.apply()
    from recbole.evaluator.register import metrics_dict

    config = {"topk": TOPK, "metric_decimal_place": 16, "tail_ratio": None}

    def compute(name: str, struct: Struct, **changes: Any) -> dict[str, float]:
        return metrics_dict[name]({**config, **changes}).calculate_metric(struct)

    return compute


@pytest.mark.parametrize("name", USER_METRICS)
def test_each_user_is_worth_what_recbole_says(name: str, theirs: Any) -> None:
    from recbole.evaluator.register import metrics_dict

    ranking = make_ranking()
    hits, n_relevant = ranking.hits, ranking.n_relevant
    metric = metrics_dict[name]({"topk": TOPK, "metric_decimal_place": 16})
    arguments = (hits, n_relevant) if name in ("recall", "ndcg", "map") else (hits,)
    expected = metric.metric_info(*arguments)
    found = USER_METRICS[name](hits, n_relevant)
    np.testing.assert_array_equal(found, expected)
    table = torch.from_numpy(np.column_stack((hits, n_relevant)))
    for key, value in theirs(name, Struct({"rec.topk": table})).items():
        assert found.mean(axis=0)[int(key.split("@")[1]) - 1] == pytest.approx(value, abs=1e-15)


def by_loops(ranking: Ranking, row: int, k: int) -> dict[str, float]:
    """The slow twin: one user, by the book."""
    wanted = set(ranking.pair_item[ranking.pair_row == row].tolist())
    shown = ranking.items[row, :k].tolist()
    ranks = [rank for rank, item in enumerate(shown, 1) if item in wanted]
    best = sum(1 / math.log2(1 + rank) for rank in range(1, min(k, len(wanted)) + 1))
    return {
        "recall": len(ranks) / len(wanted),
        "precision": len(ranks) / k,
        "hit": float(bool(ranks)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "ndcg": sum(1 / math.log2(1 + rank) for rank in ranks) / best,
        "map": sum((n + 1) / rank for n, rank in enumerate(ranks)) / min(k, len(wanted)),
    }


def test_user_metrics_agree_with_loops() -> None:
    ranking = make_ranking(2)
    found = user_metrics(ranking, TOPK)
    assert set(found) == {f"{name}@{k}" for name in USER_METRICS for k in TOPK}
    for row in range(N_USERS):
        for k in TOPK:
            for name, value in by_loops(ranking, row, k).items():
                assert found[f"{name}@{k}"][row] == pytest.approx(value, rel=1e-12), (row, name, k)


def test_user_metrics_by_hand() -> None:
    """Items to find: 3 and 9; found at rank 2."""
    ranking = Ranking(np.array([4]), np.array([[5, 3, 7]]), np.array([0, 0]), np.array([3, 9]))
    second, both = 1 / math.log2(3), 1 + 1 / math.log2(3)
    expected = {
        "recall": 1 / 2,
        "ndcg": second / both,
        "hit": 1.0,
        "precision": 1 / 3,
        "mrr": 1 / 2,
        "map": 1 / 4,
    }
    found = user_metrics(ranking, [3])
    assert {name: found[f"{name}@3"][0] for name in expected} == pytest.approx(expected, rel=1e-15)


def test_a_restricted_ranking_keeps_the_lists_and_drops_users_without_a_pair() -> None:
    ranking = make_ranking(3)
    keep = ranking.pair_item % 7 == 0
    part = ranking.restricted(keep)
    rows = np.unique(ranking.pair_row[keep])
    assert 0 < len(rows) < N_USERS
    np.testing.assert_array_equal(part.users, ranking.users[rows])
    np.testing.assert_array_equal(part.items, ranking.items[rows])
    pairs = {(int(u), int(i)) for u, i in zip(part.users[part.pair_row], part.pair_item, strict=True)}
    users = ranking.users[ranking.pair_row[keep]]
    assert pairs == {(int(u), int(i)) for u, i in zip(users, ranking.pair_item[keep], strict=True)}


def test_an_empty_place_is_no_hit() -> None:
    ranking = Ranking(np.array([1]), np.array([[2, 0]]), np.array([0]), np.array([5]))
    assert not ranking.hits.any()


# ---- beyond accuracy


@pytest.mark.parametrize("tail_ratio", [0.1, 0.4, 1, 3])
def test_beyond_accuracy_is_recboles(tail_ratio: float, theirs: Any) -> None:
    items, counts = make_ranking().items, make_counts()
    found = beyond_accuracy(items, TOPK, counts, 19, tail_ratio)
    counter = Counter({item: int(count) for item, count in enumerate(counts) if count})
    struct = Struct(
        {"rec.items": torch.from_numpy(items), "data.num_items": N_ITEMS, "data.count_items": counter}
    )
    for name in ("itemcoverage", "giniindex", "averagepopularity", "tailpercentage"):
        expected = theirs(name, struct, tail_ratio=tail_ratio)
        assert {key: found[key] for key in expected} == {
            key: pytest.approx(float(value), abs=1e-15) for key, value in expected.items()
        }
    assert 0 < found["itemcoverage@1"] < found["itemcoverage@11"] <= 1


def beyond_by_loops(items: list[list[int]], k: int, counts: list[int], n_users: int) -> dict[str, float]:
    """The slow twin, with lists that may be short; the tail is the least popular trained item."""
    lists = [[item for item in row[:k] if item] for row in items if any(row)]
    shown = Counter(item for row in lists for item in row)
    often = [shown[item] for item in range(len(counts))]
    tail = min((count, item) for item, count in enumerate(counts) if count)[1]
    apart = sum(abs(a - b) for a in often for b in often)

    def mean_of_lists(value: Any) -> float:
        return sum(sum(map(value, row)) / len(row) for row in lists) / len(lists)

    return {
        "itemcoverage": len(shown) / len(counts),
        "giniindex": apart / (2 * len(often) * sum(often)),
        "averagepopularity": mean_of_lists(lambda item: counts[item]),
        "tailpercentage": mean_of_lists(lambda item: item == tail),
        "novelty": mean_of_lists(lambda item: -math.log2(max(counts[item], 1) / n_users)),
    }


def test_beyond_accuracy_agrees_with_loops_where_lists_are_short() -> None:
    items, counts = make_ranking(4).items.copy(), make_counts(5)
    for row in range(0, N_USERS, 3):
        items[row, row % K :] = 0  # the first list has no item at all
    assert not items[0].any()
    found = beyond_accuracy(items, TOPK, counts, 23, tail_ratio=1e-9)
    for k in TOPK:
        expected = beyond_by_loops(items.tolist(), k, counts.tolist(), 23)
        assert {name: found[f"{name}@{k}"] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_nothing_recommended_is_nothing_measured() -> None:
    assert beyond_accuracy(np.zeros((3, 2), dtype=np.int64), [2], make_counts(), 5) == {}


def test_chance_is_the_mean_over_random_orders() -> None:
    """Every order of five candidates, two of them relevant: 120 of them."""
    orders = np.array(list(permutations(range(1, 6))))
    rows = np.arange(len(orders)).repeat(2)
    ranking = Ranking(np.arange(len(orders)), orders, rows, np.tile([2, 4], len(orders)))
    found = chance(np.array([5]), np.array([2]), [1, 3, 5])
    for key, values in user_metrics(ranking, [1, 3, 5], ["recall", "ndcg"]).items():
        assert found[key] == pytest.approx(values.mean(), rel=1e-12), key


def test_chance_with_fewer_candidates_than_places_finds_all() -> None:
    assert chance(np.array([2]), np.array([2]), [3]) == {"recall@3": 1.0, "ndcg@3": pytest.approx(1.0)}
