"""Raw ids and internal ids: look-up in bulk, and one clear line for ids that are not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.errors import UserError

__all__ = ["IdTable", "OnUnknown", "first_ids"]

OnUnknown = Literal["error", "skip"]
N_NAMED = 5


def first_ids(ids: Sequence[str]) -> str:
    """Name the first five of many ids, each cut at 50 characters.

    >>> first_ids(list("abcdef"))
    "'a', 'b', 'c', 'd', 'e', ..."
    """
    named = ", ".join(repr(text[:50]) for text in ids[:N_NAMED])
    return f"{named}{', ...' if len(ids) > N_NAMED else ''}"


class IdTable:
    """The raw tokens of all users or all items.

    Args:
        tokens: Raw token of each internal id; the first is the padding and is never found.
        noun: ``user`` or ``item``, for messages.
    """

    def __init__(self, tokens: Sequence[str], noun: str) -> None:
        self.tokens, self.noun = list(tokens), noun

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def array(self) -> NDArray[np.object_]:
        """Raw token of each internal id, shape ``(n,)``."""
        return np.array(self.tokens, dtype=object)

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.array[1:])

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """Return the raw ids that are not in the table, in their order."""
        found = self._index.get_indexer(np.array(ids, dtype=object))
        return [one for one, place in zip(ids, found, strict=True) if place < 0]

    def find(self, ids: Iterable[object], on_unknown: OnUnknown | None = None) -> NDArray[np.int64]:
        """Return the internal ids of raw ids, in their order.

        Args:
            ids: Raw ids; a number is read as its text. One text is one id.
            on_unknown: ``error`` refuses unknown ids, ``skip`` ignores them. None refuses them for a caller
                without this option, so that the error does not name the option.

        Raises:
            UserError: If ids are unknown: how many of how many, and the first five.
            ValueError: If ``on_unknown`` is neither.
        """
        if on_unknown not in ("error", "skip", None):
            raise ValueError(f"on_unknown must be 'error' or 'skip', got {on_unknown!r}")
        given = [ids] if isinstance(ids, str) else ids
        texts = np.array([str(one) for one in given], dtype=object)
        found = self._index.get_indexer(texts).astype(np.int64) + 1
        unknown = texts[found == 0]
        if len(unknown) and on_unknown != "skip":
            raise UserError(
                f"{len(unknown):,} of {len(texts):,} {self.noun} ids are not in the run: "
                f"{first_ids(unknown)}; correct them{', or set on_unknown=skip' if on_unknown else ''}"
            )
        return found[found > 0]

    def extended(self, tokens: Sequence[str]) -> IdTable:
        """Return a table with more tokens at the end.

        Raises:
            UserError: If a token is empty, repeated, or there already.
        """
        known = set(self.tokens)
        taken = [token for token in tokens if token in known]
        if taken:
            named = ", ".join(map(repr, taken[:N_NAMED]))
            raise UserError(f"{len(taken):,} of {len(tokens):,} new {self.noun} ids are in the run: {named}")
        if len(set(tokens)) != len(tokens) or not all(tokens):
            raise UserError(f"new {self.noun} ids: an id is empty or repeated; give each {self.noun} one id")
        return IdTable([*self.tokens, *tokens], self.noun)
