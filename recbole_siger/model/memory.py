"""What a model says about the memory of its computations. A model's formula is its ``memory_terms``."""

from __future__ import annotations

from typing import NamedTuple

from recbole_siger.model.device import CHUNK_SIZE

__all__ = ["FLOAT", "MemoryTerms", "contrast_chunk"]

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


def contrast_chunk(n_keys: int) -> int:
    """Return the bytes of the logits that a contrastive loss holds at a time."""
    return FLOAT * CHUNK_SIZE * n_keys
