"""Pairs of related entities, drawn with negatives of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_siger.graph.blocks import draw_non_neighbors, non_neighbors

__all__ = ["Relations"]


class Drawn(NamedTuple):
    """Pairs ``(P,)`` and ``(P,)``, and negatives of the first ends ``(P, V)``."""

    row: Tensor
    column: Tensor
    negatives: Tensor


class Relations:
    """The edges of a graph as positive pairs; a negative is any column that is no neighbour of the row.

    A row that has every column as a neighbour has no negative, so its pairs are left out.

    Args:
        graph: Sparse COO, shape ``(n, m)``; column 0 is padding.
        same: Rows and columns are the same nodes; a row is then no negative of its own.
    """

    def __init__(self, graph: Tensor, *, same: bool) -> None:
        self.excluded, self.n_free = non_neighbors(graph, same=same)
        row, column = graph.coalesce().indices()
        kept = self.n_free[row] > 0
        self.row, self.column = row[kept], column[kept]

    def __len__(self) -> int:
        return len(self.row)

    def draw(self, n_pairs: int, n_negatives: int, generator: torch.Generator) -> Drawn:
        """Draw pairs uniformly with replacement (``n_pairs`` 0: take each pair once), and their negatives."""
        row, column = self.row, self.column
        if n_pairs:
            drawn = torch.randint(len(row), (n_pairs,), generator=generator, device=row.device)
            row, column = row[drawn], column[drawn]
        others = draw_non_neighbors(row, n_negatives, self.excluded, self.n_free, generator)
        return Drawn(row, column, others)
