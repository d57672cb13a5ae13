"""Alignment of tables by the moments of their entries."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["moment_gap"]


def moment_gap(*tables: Tensor) -> Tensor:
    r"""Compare mean and variance of tables, summed over the pairs of tables.

    .. math::
        L = \sum_{v < w} \lvert \mu_v - \mu_w \rvert + \lvert \sigma_v^2 - \sigma_w^2 \rvert

    Source: the alignment loss of MENTOR (AAAI 2025). Each moment is one number, over all entries of a table.
    The variance divides by the number of entries, so a table and a row of its copies have equal moments.

    Args:
        tables: Two or more tables of any shapes, each with at least one entry.

    Returns:
        The sum over the pairs, shape ``()``, >= 0.

    Raises:
        ValueError: If there are fewer than two tables, or a table is empty.

    Example:
        >>> moment_gap(torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0], [1.0]])).item()
        5.0
    """
    if len(tables) < 2 or not all(table.numel() for table in tables):
        shapes = [tuple(table.shape) for table in tables]
        raise ValueError(f"moment_gap needs two or more tables with entries, got {shapes}")
    moments = [torch.stack(torch.var_mean(table, correction=0)) for table in tables]
    return torch.stack([(a - b).abs().sum() for a, b in combinations(moments, 2)]).sum()
