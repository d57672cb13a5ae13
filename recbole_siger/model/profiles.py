"""Profiles of users and items, texts of a language model: which features they are, and what replaces them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = [
    "ProfileRows",
    "Profiles",
    "item_profile",
    "mean_of_items",
    "read_profiles",
    "user_profile_names",
    "with_one_text",
]

_log = logging.getLogger(__name__)

MEAN = "mean"


class Profiles(NamedTuple):
    """Profiles of one width F; a row of zeros has no profile."""

    user: Tensor  # (U, F)
    item: Tensor  # (I, F)


def read_profiles(
    model: str,
    text: str,
    items: Mapping[str, Tensor],
    users: Mapping[str, Tensor],
    train_edges: Tensor,
    n_users: int,
) -> Profiles:
    """Return the profiles of items, and those of users or the mean of their training items' profiles.

    The log names both, because defaults choose them.

    Args:
        model: Name of the model, for messages.
        text: The modality that holds the item profiles.
        items: ``{modality: (I, F_m)}``.
        users: ``{name: (U, F)}``, the user profiles; empty: the mean replaces them, and the log says so.
        train_edges: Users then items, shape ``(2, E)``, int64.
        n_users: U.

    Raises:
        UserError: If the profiles of users and items differ in width.
    """
    item = items[text]
    name, user = next(iter(users.items()), ("", None))
    if user is None:
        _log.info("user profile: mean of the %s of the user's training items", text)
        user = mean_of_items(item, train_edges, n_users)
    else:
        _log.info("item profile: %s; user profile: %s", text, name)
    if user.shape[1] != item.shape[1]:
        widths = f"{name} is {user.shape[1]} wide and {text} {item.shape[1]}"
        raise UserError(f"{model}: {widths}; encode users and items with one encoder, or user_profile=mean")
    return Profiles(user, item)


class ProfileRows(nn.Module):
    """The rows of a table of profiles that are not zero, for losses that leave out nodes without a profile.

    Args:
        table: Shape ``(n, F)``, zero where a node has no profile.

    Example:
        >>> rows = ProfileRows(torch.tensor([[0.0], [3.0], [0.0], [5.0]]))
        >>> rows.having(torch.tensor([3, 2, 1, 3])).tolist(), rows.of(torch.tensor([3, 1])).tolist()
        ([3, 1, 3], [[5.0], [3.0]])
    """

    rows: Tensor  # (n_there, F)
    place: Tensor  # (n,) x int64: position in ``rows``, -1 without a profile

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        there = (table != 0).any(dim=1)
        place = torch.where(there, there.cumsum(0) - 1, -1)
        whole = bool(there[1:].all()) and not there[0]  # then no copy is needed
        self.register_buffer("rows", table[1:] if whole else table[there], persistent=False)
        self.register_buffer("place", place, persistent=False)

    def having(self, ids: Tensor) -> Tensor:
        """Return the ids that have a profile, in their order: ``(k,)`` of ``(B,)``."""
        return ids[self.place[ids] >= 0]

    def of(self, ids: Tensor) -> Tensor:
        """Return the profiles of ids: ``(k, F)``; an id without a profile gets some row."""
        return self.rows.index_select(0, self.place[ids].clamp_min(0))


def item_profile(asked: str | None, features: Collection[str]) -> str:
    """Return the modality that holds the item profiles.

    Args:
        asked: Name of a modality; None: ``profile``, else ``text``, else the first.
        features: Names of the modalities in use, at least one.

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


def with_one_text(asked: str | None, listed: Sequence[str], *, raw: bool) -> tuple[str, ...]:
    """Return all modalities, but only one of the profiles and the raw texts of the items.

    Args:
        asked: Modality of the profiles, as for :func:`item_profile`.
        listed: Names of the modalities in use, at least one.
        raw: Whether the raw texts, ``text``, are used; else the profiles.

    Raises:
        UserError: If the modality that is used is not listed.

    Example:
        >>> with_one_text(None, ("image", "text", "profile"), raw=False)
        ('image', 'profile')
        >>> with_one_text(None, ("image", "text", "profile"), raw=True)
        ('image', 'text')
    """
    used, other = item_profile(asked, listed), "text"
    if raw:
        used, other = item_profile("text", listed), used
    return tuple(name for name in listed if name == used or name != other)


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
