"""The fastest float32 products of a processor, with the bits of float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

__all__ = ["fast_products"]

_inside: ContextVar[bool] = ContextVar("_inside", default=False)  # whether this thread is in such a block


@contextmanager
def fast_products() -> Iterator[bool]:
    """Let oneDNN multiply float32 matrices within the block, where it is faster than torch's default.

    On processors of AMD, MKL uses AVX2 and oneDNN uses AVX-512, which is a quarter to a half faster. torch
    calls oneDNN for float32 only if products of bfloat16 are allowed. Without AMX, oneDNN multiplies in
    float32 all the same. A first product checks this. Each new shape takes oneDNN two milliseconds, so
    shapes should repeat. A precision that the user has set is not changed. With up to 128 terms a number,
    the products of matrices have the same bits as MKL's.

    Yields:
        Whether oneDNN multiplies.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if _inside.get():
        yield True
        return
    if not _onednn_is_faster() or matmul is None or matmul.fp32_precision != "none":
        yield False
        return
    token = _inside.set(True)
    matmul.fp32_precision = "bf16"
    try:
        yield True
    finally:
        matmul.fp32_precision = "none"
        _inside.reset(token)


@cache
def _onednn_is_faster() -> bool:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not _is_amd_with_avx512() or matmul is None or matmul.fp32_precision != "none":
        return False
    size = 64
    left = torch.full((size, size), 1 + 2.0**-12)  # bfloat16 rounds this number to 1
    matmul.fp32_precision = "bf16"
    try:
        product = left @ torch.eye(size)
    finally:
        matmul.fp32_precision = "none"
    return torch.equal(product, left)


def _is_amd_with_avx512() -> bool:
    """Return whether the processor is AMD's, has AVX-512 and has no AMX, as torch sees it."""
    facts: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    has_amx = any(value for name, value in facts.items() if name.startswith("amx"))
    is_amd = str(facts.get("cpu_name", "")).startswith("AMD")
    return torch.backends.mkldnn.is_available() and is_amd and bool(facts.get("avx512_bw")) and not has_amx
