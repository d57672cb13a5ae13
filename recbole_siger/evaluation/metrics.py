"""Metrics of a ranking for each user, and of the recommended part of the catalogue. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.common.sorted_keys import contains, distinct
from recbole_siger.evaluation.ranking import Ids

__all__ = ["USER_METRICS", "Ranking", "beyond_accuracy", "bigger_is_better", "chance", "user_metrics"]

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

_SMALLER_IS_BETTER = {"averagepopularity", "giniindex", "logloss", "mae", "rmse"}  # as RecBole has it


@dataclass(frozen=True)
class Ranking:
    """The best items of each evaluated user, and the relevant items.

    Attributes:
        users: Distinct internal ids, shape ``(U,)``.
        items: Best first, shape ``(U, K)``; 0, the padding, where there are fewer candidates.
        pair_row: Row of each relevant pair, shape ``(P,)``, in ``[0, U)``.
        pair_item: Item of each relevant pair, shape ``(P,)``; pairs are distinct.
    """

    users: Ids
    items: Ids
    pair_row: Ids
    pair_item: Ids

    @cached_property
    def n_relevant(self) -> Ids:
        """Number of relevant items of each user, shape ``(U,)``."""
        return np.bincount(self.pair_row, minlength=len(self.users)).astype(np.int64)

    @cached_property
    def hits(self) -> Mask:
        """Which recommended items are relevant, shape ``(U, K)``."""
        width = 1 + max(self.items.max(initial=0), self.pair_item.max(initial=0))
        rows = np.arange(len(self.users))[:, None]
        return contains(distinct(self.pair_row * width + self.pair_item), rows * width + self.items)

    def restricted(self, keep: Mask) -> Ranking:
        """Keep only the pairs ``keep``, shape ``(P,)``, and the users with such a pair; lists do not change.

        Example:
            >>> lists, rows, items = np.array([[1, 2], [2, 1]]), np.array([0, 1]), np.array([2, 1])
            >>> both = Ranking(np.array([4, 7]), lists, rows, items)
            >>> one = both.restricted(both.pair_item == 1)
            >>> one.users, one.hits
            (array([7]), array([[False,  True]]))
        """
        rows, pair_row = np.unique(self.pair_row[keep], return_inverse=True)
        return Ranking(self.users[rows], self.items[rows], pair_row, self.pair_item[keep])


def recall(hits: Mask, n_relevant: Ids) -> Values:
    """Share of a user's relevant items among the first k, for k = 1..K: ``(U, K)``, in [0, 1]."""
    return np.cumsum(hits, axis=1) / n_relevant[:, None]


def precision(hits: Mask, n_relevant: Ids) -> Values:
    """Share of relevant items among the first k, empty places included: ``(U, K)``, in [0, 1]."""
    return np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)


def hit(hits: Mask, n_relevant: Ids) -> Values:
    """1 where one of the first k items is relevant, else 0: ``(U, K)``."""
    return (np.cumsum(hits, axis=1) > 0).astype(np.float64)


def ndcg(hits: Mask, n_relevant: Ids) -> Values:
    r"""Discounted cumulative gain divided by the gain of a perfect list: ``(U, K)``, in [0, 1].

    The gain of a hit at rank r is :math:`1/\log_2(1+r)`; the perfect list at k has ``min(k, n_relevant)``
    hits.
    """
    ranks = np.arange(1, hits.shape[1] + 1, dtype=np.float64)
    gains = 1.0 / np.log2(ranks + 1)
    ideal = np.cumsum(gains)
    place = np.minimum(np.arange(hits.shape[1]), n_relevant[:, None] - 1)
    return np.cumsum(np.where(hits, gains, 0), axis=1) / ideal[place]


def mrr(hits: Mask, n_relevant: Ids) -> Values:
    """Reciprocal rank of the first relevant item, 0 if none is among the first k: ``(U, K)``."""
    first = hits.argmax(axis=1)[:, None]
    found = np.cumsum(hits, axis=1) > 0
    return np.where(found, 1 / (first + 1), 0.0)


def average_precision(hits: Mask, n_relevant: Ids) -> Values:
    """Precision at each relevant item, summed and divided by ``min(k, n_relevant)``: ``(U, K)``."""
    ranks = np.arange(1, hits.shape[1] + 1)
    summed = np.cumsum(np.cumsum(hits, axis=1) / ranks * hits, axis=1)
    return summed / np.maximum(np.minimum(ranks, n_relevant[:, None]), 1)


USER_METRICS = {
    "recall": recall,
    "ndcg": ndcg,
    "hit": hit,
    "precision": precision,
    "mrr": mrr,
    "map": average_precision,
}
"""Metrics that are a mean over users; names and definitions are RecBole's, bit for bit."""


def user_metrics(
    ranking: Ranking, topk: Sequence[int], names: Sequence[str] | None = None
) -> dict[str, Values]:
    """Compute each metric at each cut-off for each user.

    Args:
        ranking: Every user has at least one relevant item.
        topk: Cut-offs, in ``[1, K]``.
        names: Keys of :data:`USER_METRICS`; by default all keys.

    Returns:
        ``{"recall@10": (U,), ...}``; the mean over users is RecBole's value before rounding.

    Example:
        >>> one = Ranking(np.array([1]), np.array([[5, 3]]), np.array([0, 0]), np.array([3, 4]))
        >>> {name: value.tolist() for name, value in user_metrics(one, [1, 2], ["recall", "mrr"]).items()}
        {'recall@1': [0.0], 'recall@2': [0.5], 'mrr@1': [0.0], 'mrr@2': [0.5]}
    """
    found: dict[str, Values] = {}
    for name in names or USER_METRICS:
        table = USER_METRICS[name](ranking.hits, ranking.n_relevant)
        found |= {f"{name}@{k}": table[:, k - 1] for k in topk}
    return found


def chance(n_candidates: Ids, n_relevant: Ids, topk: Sequence[int]) -> dict[str, float]:
    r"""Return the expected metrics of a random order of the candidates.

    With R of n candidates relevant, each place holds a relevant item with probability :math:`R/n`, so
    :math:`E[\text{recall@}k] = k/n` and :math:`E[\text{DCG@}k] = (R/n) \sum_{r \le k} 1/\log_2(1+r)`.

    Args:
        n_candidates: Number of ranked items of each user, relevant items included, >= 1, shape ``(U,)``.
        n_relevant: Number of relevant items of each user, >= 1, shape ``(U,)``.
        topk: Cut-offs.

    Returns:
        ``recall@k`` and ``ndcg@k``, means over users.

    Example:
        >>> chance(np.array([4, 4]), np.array([1, 2]), [2])["recall@2"]
        0.5
    """
    gains, found = np.cumsum(1 / np.log2(np.arange(2, max(topk) + 2))), {}
    for k in topk:
        shown = np.minimum(k, n_candidates)
        dcg = n_relevant / n_candidates * gains[shown - 1]
        found[f"recall@{k}"] = float((shown / n_candidates).mean())
        found[f"ndcg@{k}"] = float((dcg / gains[np.minimum(k, n_relevant) - 1]).mean())
    return found


def beyond_accuracy(
    items: Ids, topk: Sequence[int], item_counts: Ids, n_train_users: int, tail_ratio: float = 0.1
) -> dict[str, float]:
    r"""Measure which part of the catalogue the lists recommend.

    With :math:`n_i` the training rows of item i:

    * ``itemcoverage``: share of distinct recommended items among all items (Ge et al., RecSys 2010).
    * ``giniindex``: inequality of the items' frequencies in the lists, 0 if all frequencies are equal.
    * ``averagepopularity``: mean :math:`n_i` of a list, mean over users (Yin et al., VLDB 2012).
    * ``tailpercentage``: share of tail items in a list, mean over users (Yin et al., VLDB 2012).
    * ``novelty``: mean :math:`-\log_2(\max(n_i, 1) / U)` of a list, mean over users; an item without a
      training row counts as if one user had it (Zhou et al., PNAS 2010: surprisal).

    Names and definitions are RecBole's, except ``novelty``, which RecBole does not have. As in RecBole, "all
    items" includes the padding, and the tail consists of items with a training row. One difference: if a user
    has too few candidates, RecBole fills the list with hidden items and counts them; here those places stay
    empty.

    Args:
        items: Recommended items, best first, shape ``(U, K)``, 0 for an empty place.
        topk: Cut-offs, in ``[1, K]``.
        item_counts: Training rows of each item, padding included, shape ``(n_items,)``.
        n_train_users: Users with a training row, >= 1.
        tail_ratio: Share of the items with training rows that form the tail, least popular first, then lower
            id; a value above 1 is the largest number of training rows of a tail item.

    Returns:
        ``{"itemcoverage@10": ..., ...}``; empty if no list has an item.

    Example:
        >>> lists, counts = np.array([[1, 2], [1, 3]]), np.array([0, 4, 2, 0])
        >>> found = beyond_accuracy(lists, [2], counts, n_train_users=4)
        >>> {name.removesuffix("@2"): round(value, 3) for name, value in found.items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'itemcoverage': 0.75, 'giniindex': 0.375, 'averagepopularity': 2.5, 'tailpercentage': 0.25,
         'novelty': 0.75}
    """
    lists = items[(items != 0).any(axis=1)]
    real = lists != 0
    tail = tail_items(item_counts, tail_ratio)
    surprisal = -np.log2(np.maximum(item_counts, 1) / n_train_users)
    found = {}
    for k in topk if len(lists) else ():
        shown = np.sort(np.bincount(lists[:, :k][real[:, :k]], minlength=len(item_counts)))
        found[f"itemcoverage@{k}"] = float((shown > 0).sum() / len(item_counts))
        found[f"giniindex@{k}"] = _gini(shown)
        for name, value in (
            ("averagepopularity", item_counts),
            ("tailpercentage", tail),
            ("novelty", surprisal),
        ):
            found[f"{name}@{k}"] = _mean_of_lists(value, lists, real)[k - 1]
    return found


def bigger_is_better(column: str) -> bool:
    """Tell whether a higher value of a metric is better.

    >>> bigger_is_better("recall@20[cold]"), bigger_is_better("giniindex@20")
    (True, False)
    """
    return column.partition("@")[0] not in _SMALLER_IS_BETTER


def tail_items(item_counts: Ids, tail_ratio: float) -> Mask:
    """Mark the tail as RecBole does, see :func:`beyond_accuracy`: ``(n_items,)``."""
    if tail_ratio > 1:
        return (item_counts > 0) & (item_counts <= tail_ratio)
    trained = np.flatnonzero(item_counts)
    order = trained[np.argsort(item_counts[trained], kind="stable")]
    tail = np.zeros(len(item_counts), dtype=bool)
    tail[order[: max(int(len(order) * tail_ratio), 1)]] = True
    return tail


def _gini(ascending: Ids) -> float:
    place = np.arange(1, len(ascending) + 1)
    return float(np.sum((2 * place - len(ascending) - 1) * ascending) / ascending.sum() / len(ascending))


def _mean_of_lists(value: NDArray[Any], lists: Ids, real: Mask) -> list[float]:
    """Average a value of items over the first k places of each list, then over lists, for k = 1..K."""
    # The padding's value is never counted; the empty places of a list are its last places.
    summed = np.where(real, value[lists], 0).cumsum(axis=1)
    return (summed / real.cumsum(axis=1)).mean(axis=0).tolist()
