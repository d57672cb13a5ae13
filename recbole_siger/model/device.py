"""What suits a device: the one place that decides by the kind of a tensor's device.

A CPU is fast with blocks that stay in its cache, and a look at a value costs nothing. A GPU waits for each
look, starts each kernel at a cost of microseconds, and repeats a step as a CUDA graph only if no shape
depends on values. Tests and benchmarks force the choices of one device on tensors of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["CHUNK_SIZE", "CPU", "CUDA", "Choices", "choices", "choices_of", "force_choices"]

CHUNK_SIZE = 128
"""Queries that a CPU compares at a time: their logits stay in its cache."""


@dataclass(frozen=True)
class Choices:
    """How computations go on a kind of device. The results are equal up to rounding.

    Attributes:
        static: No shape depends on values, nothing waits for a value, no sum depends on the order of threads,
            and tables are stacked to save launches.
        logit_bytes: Bytes of logits that a loss over pairs may hold at a time, if more than those of
            ``CHUNK_SIZE`` queries. On CUDA 1 GiB: 2,048 queries and 100,000 keys in one part.
        product: Sparse times dense: ``bags``, :func:`torch.nn.functional.embedding_bag`, or ``csr``,
            cuSPARSE's product of a stored CSR tensor.
        bag_size: Entries of a row that one thread sums, if ``static``.
    """

    static: bool
    logit_bytes: int
    product: Literal["bags", "csr"] = "bags"
    bag_size: int = 64

    def chunk_size(self, n_keys: int, n_tables: int = 1) -> int:
        """Return the number of queries whose logits exist at a time.

        Args:
            n_keys: Logits of each query.
            n_tables: Tables of logits that exist at a time.
        """
        return max(CHUNK_SIZE, self.logit_bytes // (4 * n_tables * max(n_keys, 1)))


CPU = Choices(static=False, logit_bytes=0)
CUDA = Choices(static=True, logit_bytes=2**30)

_forced: ContextVar[Choices | None] = ContextVar("forced", default=None)


def choices(x: Tensor) -> Choices:
    """Return the choices for the device of a tensor."""
    return choices_of(x.device)


def choices_of(device: torch.device) -> Choices:
    """Return the choices for a device."""
    return _forced.get() or (CUDA if device.type == "cuda" else CPU)


@contextmanager
def force_choices(these: Choices | None) -> Iterator[None]:
    """Use these choices on every device within the block; None: those of each device.

    Backward passes on a GPU run in threads of their own, which see no forced choices. A function with a
    backward pass therefore reads the choices in its forward pass.
    """
    token = _forced.set(these)
    try:
        yield
    finally:
        _forced.reset(token)
