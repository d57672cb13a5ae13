"""Groups of items and users for separate results. Arrays only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_siger.evaluation.metrics import Mask, Ranking, user_metrics
from recbole_siger.evaluation.ranking import Ids

__all__ = ["ColdSet", "by_activity", "by_coverage", "by_popularity", "slice_items", "slice_users"]

Slices = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ColdSet:
    """The cold items, or the cold users.

    Attributes:
        items: shape ``(n_items,)``, or None.
        users: shape ``(n_users,)``, or None.
        alone: Whether cold items are the only candidates.
    """

    items: Mask | None
    users: Mask | None
    alone: bool

    def holds(self, users: Ids, items: Ids) -> Mask:
        """Return which pairs are cold, ``(P,)``.

        >>> rare = ColdSet(np.array([False, True, False]), None, alone=False)
        >>> rare.holds(users=np.array([1, 1]), items=np.array([1, 2])).tolist()
        [True, False]
        """
        if self.items is not None:
            return self.items[items]
        assert self.users is not None
        return self.users[users]

    def split(self, ranking: Ranking) -> dict[str, Ranking]:
        """Restrict a ranking to its ``cold`` and its ``warm`` pairs; a part without a pair is omitted."""
        cold = self.holds(ranking.users[ranking.pair_row], ranking.pair_item)
        parts = {"cold": cold, "warm": ~cold}
        return {name: ranking.restricted(keep) for name, keep in parts.items() if keep.any()}


def by_popularity(item_counts: Ids, share: float = 0.2) -> dict[str, Mask]:
    """Group items by training rows: ``head``, ``middle``, ``tail``, and ``none`` without a row.

    The head is the smallest set of most popular items with at least ``share`` of all training rows. The tail
    is the set of least popular items that together have at most ``share`` of the training rows. The middle
    is the rest. Equal counts are ordered by id, lower id first. Source: Abdollahpouri et al., "User-centered
    Evaluation of Popularity Bias in Recommender Systems", UMAP 2021.

    Args:
        item_counts: Training rows of each item, the padding item 0 first, shape ``(n_items,)``.
        share: In ``(0, 0.5]``.

    Returns:
        ``{group: (n_items,)}``; the padding item is in no group.

    Example:
        >>> groups = by_popularity(np.array([0, 6, 3, 1, 0]))
        >>> {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()}
        {'head': [1], 'middle': [2], 'tail': [3], 'none': [4]}
    """
    order = np.argsort(-item_counts, kind="stable")
    cumulated = np.cumsum(item_counts[order])
    total = cumulated[-1]
    before, left = cumulated - item_counts[order], total - cumulated + item_counts[order]
    head, tail = np.zeros(len(order), bool), np.zeros(len(order), bool)
    head[order] = before < share * total
    tail[order] = left <= share * total
    some = item_counts > 0
    groups = {"head": head & some, "middle": ~head & ~tail & some, "tail": tail & ~head & some, "none": ~some}
    groups["none"][0] = False
    return groups


def by_activity(user_counts: Ids, users: Ids) -> dict[str, Mask]:
    """Group evaluated users by training rows: ``low``, ``medium``, ``high``, and ``none`` without a row.

    The bounds are the terciles of the evaluated users with a row. Users with equal numbers of rows are in one
    group, so a group may be empty.

    Args:
        user_counts: Training rows of each user, padding first, shape ``(n_users,)``.
        users: Ids of the evaluated users, shape ``(U,)``.

    Returns:
        ``{group: (n_users,)}``; users that are not evaluated are in no group.

    Example:
        >>> groups = by_activity(np.array([0, 1, 2, 3, 0]), np.array([1, 2, 3, 4]))
        >>> {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()}
        {'none': [4], 'low': [1], 'medium': [2], 'high': [3]}
    """
    evaluated = np.zeros(len(user_counts), bool)
    evaluated[users] = True
    counts = np.sort(user_counts[evaluated & (user_counts > 0)])
    low, high = (counts[(len(counts) * third - 1) // 3] if len(counts) else 0 for third in (1, 2))
    return {
        "none": evaluated & (user_counts == 0),
        "low": evaluated & (user_counts > 0) & (user_counts <= low),
        "medium": evaluated & (user_counts > low) & (user_counts <= high),
        "high": evaluated & (user_counts > high),
    }


def by_coverage(has: Mapping[str, Mask]) -> dict[str, Mask]:
    """Group items by the number of modalities with a feature: ``complete``, ``partial``, ``none``.

    Args:
        has: ``{modality: (n_items,)}``, at least one; the padding item 0 first.

    Returns:
        ``{group: (n_items,)}``; the padding item is in no group.

    Example:
        >>> image, text = np.array([False, True, True]), np.array([False, True, False])
        >>> groups = by_coverage({"image": image, "text": text})
        >>> {name: mask.tolist() for name, mask in groups.items()}
        {'complete': [False, True, False], 'partial': [False, False, True], 'none': [False, False, False]}
    """
    n_features = np.sum(list(has.values()), axis=0)
    complete, some = n_features == len(has), n_features > 0
    groups = {"complete": complete, "partial": some & ~complete, "none": ~some}
    for mask in groups.values():
        mask[0] = False
    return groups


def slice_items(
    ranking: Ranking, groups: Mapping[str, Mask], topk: Sequence[int], names: Sequence[str] | None = None
) -> Slices:
    """Compute the metrics of one ranking for each group of items.

    The ranking keeps all candidates. Only items of the group count as relevant, and the mean is over users
    with a relevant item in the group.

    Args:
        ranking: U users, P pairs to find.
        groups: ``{group: (n_items,)}``.
        topk: Cut-offs.
        names: Metrics, see :func:`~recbole_siger.evaluation.metrics.user_metrics`.

    Returns:
        ``{group: {"n_items": .., "n_users": .., "recall@20": .., ...}}``; a group without a user to average
        over has only the two counts.
    """
    return {
        name: {"n_items": int(mask.sum()), **_means(ranking.restricted(mask[ranking.pair_item]), topk, names)}
        for name, mask in groups.items()
    }


def slice_users(
    ranking: Ranking, groups: Mapping[str, Mask], topk: Sequence[int], names: Sequence[str] | None = None
) -> Slices:
    """Compute the metrics of one ranking for each group of users.

    Args:
        ranking: U users, P pairs to find.
        groups: ``{group: (n_users,)}``.
        topk: Cut-offs.
        names: Metrics, see :func:`~recbole_siger.evaluation.metrics.user_metrics`.

    Returns:
        ``{group: {"n_users": .., "recall@20": .., ...}}``; an empty group has only ``n_users``, 0.
    """
    pair_user = ranking.users[ranking.pair_row]
    return {name: _means(ranking.restricted(mask[pair_user]), topk, names) for name, mask in groups.items()}


def _means(ranking: Ranking, topk: Sequence[int], names: Sequence[str] | None) -> dict[str, float]:
    n_users = len(ranking.users)
    values = user_metrics(ranking, topk, names) if n_users else {}
    return {"n_users": n_users, **{name: float(value.mean()) for name, value in values.items()}}
