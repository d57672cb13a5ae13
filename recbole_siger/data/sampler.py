"""RecBole's negative sampler with a batch's pairs looked up at once; the negatives are the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.sampler import Sampler
from torch import Tensor

from recbole_siger.common.sorted_keys import contains, distinct
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.errors import UserError

__all__ = ["NegativeSampler", "PairSet"]

Ids = NDArray[np.int64]

# A drawn pair is rarely a training pair. A table of this many bits per pair decides most pairs at once.
_BITS_A_PAIR = 64
_FEW = 64  # pairs; so few are searched for without the table, which would take longer
_BITS_AT_A_TIME = 1 << 26
_LEAST_CHANCE = 1e-6  # of a draw that is no training pair; RecBole draws again until there is one
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Fibonacci hashing


class PairSet:
    """A set of ``(user, item)`` pairs that is asked for many pairs at once.

    A table of bits, addressed by a hash of the pair, answers "no" for all but one in 64 of the pairs that are
    not in the set; the others are searched for among the sorted keys. Its memory is 16 to 24 bytes a pair,
    whatever the number of users and items.

    Args:
        users: shape ``(E,)``.
        items: shape ``(E,)``, in ``[0, n_items)``.
        n_items: Number of items, padding included.

    Example:
        >>> pairs = PairSet(np.array([1, 2]), np.array([5, 3]), 7)
        >>> pairs.contains(np.array([1, 1, 2]), np.array([5, 3, 3]))
        array([ True, False,  True])
    """

    def __init__(self, users: Ids, items: Ids, n_items: int) -> None:
        self.n_items = n_items
        self.keys = distinct(users.astype(np.int64) * n_items + items)
        n_bits = max(8, 1 << int(len(self.keys) * _BITS_A_PAIR - 1).bit_length())
        self._shift = np.uint64(64 - n_bits.bit_length() + 1)
        self._bits = _set_bits(self._place(self.keys), n_bits)

    def _place(self, keys: Ids) -> Ids:
        """Return where each key's bit is: the upper bits of its product with an odd constant."""
        return ((keys.view(np.uint64) * _SPREAD) >> self._shift).view(np.int64)

    def contains(self, users: Ids, items: Ids) -> NDArray[np.bool_]:
        """Return which pairs are in the set: ``(B,)`` and ``(B,)`` to ``(B,)``."""
        found = np.zeros(len(users), dtype=bool)
        found[self.find(users, items)] = True
        return found

    def find(self, users: Ids, items: Ids) -> Ids:
        """Return the positions of the pairs that are in the set, ascending: ``(B,)`` each to ``(n,)``."""
        keys = np.multiply(users, self.n_items, dtype=np.int64) + items
        if len(keys) <= _FEW:
            return contains(self.keys, keys).nonzero()[0]
        place = self._place(keys)
        bits = (self._bits[place >> 3] >> (place & 7).astype(np.uint8)) & 1
        maybe = bits.view(np.bool_).nonzero()[0]
        return maybe[contains(self.keys, keys[maybe])]


def _set_bits(places: Ids, n_bits: int) -> NDArray[np.uint8]:
    """Return a table of bits, eight a byte, with the bits at some places set; sorts ``places``.

    A part of the table at a time has a byte for each bit; the whole table would need 64 to 128 bytes a pair.
    """
    places.sort()
    size = min(n_bits, _BITS_AT_A_TIME)
    bits = np.empty(n_bits // 8, dtype=np.uint8)
    bounds = np.searchsorted(places, np.arange(0, n_bits + 1, size))
    for part, (first, last) in enumerate(pairwise(bounds.tolist())):
        flags = np.zeros(size, dtype=bool)
        flags[places[first:last] - part * size] = True
        bits[part * size // 8 : (part + 1) * size // 8] = np.packbits(flags, bitorder="little")
    return bits


class NegativeSampler(Sampler):
    """Draws items that a user does not have in training, in RecBole's order of draws.

    Args:
        train: The training split; nothing else decides what is a negative.
        distribution: ``uniform`` or ``popularity``.
        alpha: Power of the popularity.
        train_items: Draw from the items that occur in training only; for ``uniform``.

    Raises:
        UserError: With ``train_items``, if a user has all of them; with ``popularity``, if a user has all
            items that popularity draws, but for a chance of one in a million.
        ValueError: If a user has all items.
    """

    def __init__(
        self,
        train: MultimodalDataset,
        distribution: str = "uniform",
        alpha: float = 1.0,
        *,
        train_items: bool = False,
    ) -> None:
        self.candidates: Ids | None = None
        users, items = train.train_edges.numpy()
        if train_items:
            self.candidates = distinct(items)
        super().__init__(["train"], [train], distribution, alpha)
        self.used_ids: Any = PairSet(users, items, train.item_num)
        self.phase = "train"
        self._check_counts(train)

    def get_used_ids(self) -> None:
        """Make none of RecBole's Python sets; the constructor makes a :class:`PairSet`."""

    def _check_counts(self, train: MultimodalDataset) -> None:
        """Refuse a user for whom drawing would not end."""
        holders, held = np.divmod(self.used_ids.keys, self.item_num)
        counts = np.bincount(holders, minlength=1)
        if self.candidates is not None and counts.max() >= len(self.candidates) > 0:
            user = train.user_tokens[int(counts.argmax())]
            raise UserError(
                f"user {user!r} has all {len(self.candidates)} training items, so no negative can be drawn; "
                "set --train_negatives=all (under cold_start a lower ratio), or filter with "
                "--user_inter_num_interval before the data is split"
            )
        if counts.max() + 1 >= self.item_num:
            raise ValueError(
                "a user has interacted with all items, so no negative can be drawn; "
                "filter with --user_inter_num_interval before the data is split"
            )
        if self.distribution == "popularity":
            self._check_popularity(train, holders, held)

    def _check_popularity(self, train: MultimodalDataset, holders: Ids, held: Ids) -> None:
        """Refuse a user who has nearly all that popularity draws; it draws from training items only."""
        frequency = np.bincount(train.train_edges[1].numpy(), minlength=self.item_num) / len(train.inter_feat)
        chance = frequency**self.alpha * (frequency > 0)
        chance /= chance.sum()
        left = 1 - np.bincount(holders, weights=chance[held])
        if left.min() < _LEAST_CHANCE:
            user = train.user_tokens[int(left.argmin())]
            raise UserError(
                f"train_neg_sample_args: distribution=popularity, alpha={self.alpha}: user {user!r} has "
                "(nearly) all training items by popularity, so no negative can be drawn; use uniform, or "
                "filter with --user_inter_num_interval before the data is split"
            )

    def _uni_sampling(self, sample_num: int) -> Ids:
        if self.candidates is None:
            return super()._uni_sampling(sample_num)
        return self.candidates[np.random.randint(0, len(self.candidates), sample_num)]  # noqa: NPY002  # RecBole's stream

    def sample_by_key_ids(self, key_ids: Sequence[int] | Ids, num: int) -> Tensor:
        """Draw ``num`` negatives a user; those of user ``b`` of ``B`` are at ``b``, ``b + B``, and so on.

        Args:
            key_ids: Users, shape ``(B,)``.
            num: Negatives a user.

        Returns:
            shape ``(num * B,)``, int64.
        """
        users = np.asarray(key_ids) if num == 1 else np.tile(np.asarray(key_ids), num)
        items = self.sampling(len(users))
        refused = self.used_ids.find(users, items)
        while len(refused):
            items[refused] = drawn = self.sampling(len(refused))
            refused = refused[self.used_ids.find(users[refused], drawn)]
        return torch.from_numpy(items)
