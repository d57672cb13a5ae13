"""Products by oneDNN have the bits of float32, and the user's settings of torch stay."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from recbole_siger.common import processor
from recbole_siger.common.processor import fast_products

MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
needs_setting = pytest.mark.skipif(MATMUL is None, reason="this torch has no precision for oneDNN's products")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    processor._onednn_is_faster.cache_clear()
    yield
    processor._onednn_is_faster.cache_clear()


def test_products_have_the_precision_of_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.randn(shape, generator=generator) for shape in ((61, 997), (997, 67)))
    with fast_products():
        product = left @ right
    assert (product - left.double() @ right.double()).abs().max() < 1e-5 * product.abs().max()


@pytest.mark.parametrize("width", [1, 64, 128])
def test_scores_have_the_same_bits(width: int) -> None:
    """As many numbers a vector as embeddings have: evaluation and RecBole's rank the same scores."""
    generator = torch.Generator().manual_seed(width)
    user, item = (torch.randn(shape, generator=generator) for shape in ((149, width), (1031, width)))
    plain = user @ item.T
    with fast_products():
        assert torch.equal(user @ item.T, plain)


@needs_setting
def test_the_setting_holds_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_onednn_is_faster", lambda: True)
    with fast_products() as fast:
        assert fast
        assert MATMUL.fp32_precision == "bf16"
        with fast_products() as again:
            assert again
        assert MATMUL.fp32_precision == "bf16"
    assert MATMUL.fp32_precision == "none"
    with pytest.raises(RuntimeError), fast_products():
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert MATMUL.fp32_precision == "none"


@needs_setting
def test_a_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_onednn_is_faster", lambda: True)
    MATMUL.fp32_precision = "ieee"
    try:
        with fast_products() as fast:
            assert not fast
            assert MATMUL.fp32_precision == "ieee"
        assert MATMUL.fp32_precision == "ieee"
    finally:
        MATMUL.fp32_precision = "none"


@needs_setting
def test_a_product_of_fewer_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor with AMX, which multiplies bfloat16."""
    monkeypatch.setattr(processor, "_is_amd_with_avx512", lambda: True)
    eye = torch.eye
    monkeypatch.setattr(torch, "eye", lambda size: eye(size) * (1 - 2.0**-12))
    with fast_products() as fast:
        assert not fast
    assert MATMUL.fp32_precision == "none"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"cpu_name": "AMD EPYC", "avx512_bw": True, "amx_bf16": False},
            torch.backends.mkldnn.is_available(),
        ),
        ({"cpu_name": "AMD EPYC", "avx512_bw": True, "amx_bf16": True}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bw": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bw": True}, False),
        ({}, False),
    ],
)
def test_processors(monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert processor._is_amd_with_avx512() is expected
