"""Items or users that are most similar to given ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.recommend.ids import IdTable
from recbole_siger.recommend.ranking import check_k, join, rank_blocks, ranks_of
from recbole_siger.runs.scoring import Scoring, padded_columns

__all__ = ["cosines_of", "matrix_rows", "similar"]

Ids = NDArray[np.int64]


def similar(table: IdTable, ids: Ids, k: int, score: Callable[[Ids], Tensor]) -> pd.DataFrame:
    """Rank all items, or all users, by their similarity to some of them.

    Args:
        table: Raw ids of all items or all users.
        ids: Internal ids of those that similar ones are asked for, shape ``(n,)``.
        k: Similar ones of each, >= 1.
        score: Takes internal ids ``(B,)`` and returns similarities ``(B, len(table))``.

    Returns:
        Columns ``item`` or ``user``, ``similar``, ``score`` and ``rank``; none is similar to itself.
    """
    k = check_k(k)
    blocks = rank_blocks(
        len(ids),
        len(table),
        lambda rows: score(ids[rows]),
        lambda rows: (np.arange(len(rows)), ids[rows]),
        k,
    )
    rows, found, scores = join(blocks)
    columns = {table.noun: table.array[ids[rows]], "similar": table.array[found], "score": scores}
    return pd.DataFrame({**columns, "rank": ranks_of(rows)})


def cosines_of(table: Tensor) -> Callable[[Ids], Tensor]:
    """Return what computes the cosines of rows of a table ``(n, d)`` with all: ``(B,)`` to ``(B, n)``."""
    vectors = torch.nn.functional.normalize(table, dim=1)
    columns = padded_columns(vectors)
    return lambda ids: (vectors[torch.from_numpy(ids)] @ columns)[:, : len(table)]


def matrix_rows(scoring: Scoring, items: Ids) -> Tensor:
    """Return rows of an item-item matrix: ``(B,)`` to ``(B, n_items)``."""
    return scoring.scores_of_lists(np.arange(len(items)), items, len(items))
