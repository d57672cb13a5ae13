"""What a model says about the memory of its computations. A model's formula is its ``memory_terms``."""

from __future__ import annotations

from typing import NamedTuple

import torch

from recbole_siger.model.device import choices_of

__all__ = ["FLOAT", "MemoryTerms", "contrast_chunk", "distinct_rows"]

FLOAT = 4
"""Bytes of a float32."""


class MemoryTerms(NamedTuple):
    """Bytes that exist only during a computation, beside parameters, gradients, graphs and tables.

    Attributes:
        step: Peak of ``loss_terms`` and of its backward pass.
        forward: Peak of ``final_embeddings``.
    """

    step: int
    forward: int


def contrast_chunk(device: torch.device, n_keys: int, n_queries: int, n_stacked: int = 1) -> int:
    """Return the bytes of the logits that a contrastive loss holds at a time.

    Args:
        device: Where it is computed.
        n_keys: Keys.
        n_queries: Queries; a CPU compares fewer of them at a time.
        n_stacked: Contrasts that a GPU computes together.
    """
    how = choices_of(device)
    if not how.static:
        return FLOAT * how.chunk_size(n_keys) * n_keys
    return FLOAT * n_stacked * min(how.chunk_size(n_keys, n_stacked), n_queries) * n_keys


def distinct_rows(device: torch.device, n_ids: int, n_rows: int) -> int:
    """Return the number of distinct ids among some ids at most; a GPU pads them to the number of ids."""
    return n_ids if choices_of(device).static else min(n_ids, n_rows)
