"""Profiles of users and items, texts of a language model: which features they are, and what replaces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["item_profile", "mean_of_items", "user_profile_names"]

MEAN = "mean"


def item_profile(asked: str | None, features: Mapping[str, Tensor]) -> str:
    """Return the modality that holds the item profiles.

    Args:
        asked: Name of a modality; None: ``profile``, else ``text``, else the first.
        features: ``{modality: (I, F_m)}``, at least one.

    Raises:
        UserError: If ``asked`` is no such modality.
    """
    if asked is None:
        return next(name for name in ("profile", "text", *features) if name in features)
    if asked not in features:
        among = ", ".join(features)
        hint = did_you_mean(asked, features)
        raise UserError(f"item_profile={asked!r} is not a modality in use{hint} (modalities: {among})")
    return asked


def user_profile_names(asked: str | None, listed: Sequence[str]) -> tuple[str, ...]:
    """Return the user feature that holds the user profiles; nothing where the mean of items replaces them.

    Args:
        asked: Name of a user feature; ``mean``: the mean of the user's training items; None: the first user
            feature of the dataset, else the mean.
        listed: User features of the dataset.

    Raises:
        UserError: If the dataset does not list ``asked``.
    """
    if asked is None:
        return tuple(listed[:1])
    if asked == MEAN:
        return ()
    if asked not in listed:
        among = f" (user features: {', '.join(listed)})" if listed else "; the dataset lists none"
        raise UserError(
            f"user_profile={asked!r} is not a user feature{did_you_mean(asked, listed)}{among}; list the "
            "feature under user_features, or set user_profile=mean for the mean of the user's training items"
        )
    return (asked,)


def mean_of_items(features: Tensor, train_edges: Tensor, n_users: int) -> Tensor:
    """Average the features of each user's training items; items without a feature do not count.

    Args:
        features: Shape ``(I, F)``, zero where an item has no feature.
        train_edges: Users then items, shape ``(2, E)``, int64.
        n_users: U.

    Returns:
        Shape ``(U, F)``, float32; zero for a user without such an item.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [4.0], [0.0]])
        >>> mean_of_items(x, torch.tensor([[1, 1, 1], [1, 2, 3]]), 3).tolist()
        [[0.0], [3.0], [0.0]]
    """
    user, item = train_edges.unique(dim=1)
    there = (features != 0).any(dim=1)[item]
    user, item = user[there], item[there]
    total = features.new_zeros((n_users, features.shape[1]), dtype=torch.float64)
    for some in torch.arange(len(user), device=user.device).split(max(1, 2**21 // features.shape[1])):
        total.index_add_(0, user[some], features[item[some]].double())
    count = torch.bincount(user, minlength=n_users).clamp_min(1)
    return (total / count.unsqueeze(1)).float()
