"""Vectors of texts: known geometry, and the same bits on every number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from recbole_siger.common.tfidf import TextVectors
from recbole_siger.errors import UserError

TEXTS = ["red shoe", "red shoe leather", "blue lamp", "blue lamp glass", "green tent"]


def fit(texts: list[str], dim: int) -> TextVectors:
    return TextVectors(texts, dim, option="tfidf_dim", source="text_model=tfidf")


def test_texts_that_share_words_are_near() -> None:
    vectors = fit(TEXTS, 3).encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.9
    assert similarity[2, 3] > 0.9
    assert abs(similarity[0, 2]) < 1e-6


def test_a_text_without_a_known_word_is_zero_and_no_text_has_no_row() -> None:
    vectors = fit(TEXTS, 3)
    assert not vectors.encode(["unknown words"]).any()
    assert vectors.encode([]).shape == (0, 3)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    """On two threads OpenBLAS adds the products of matrices of this size in another order."""
    random = np.random.default_rng(5)
    texts = [" ".join(f"word{n}" for n in random.zipf(1.4, 11) % 997) for _ in range(1709)]
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(limits=n_threads):
            vectors = fit(texts, 127)
            found.append((vectors.components.tobytes(), vectors.encode(texts).tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("dim", [0, 5, 99])
def test_dimensions_have_a_range(dim: int) -> None:
    with pytest.raises(UserError, match=rf"^tfidf_dim={dim}: expected a number in \[1, 4\] for 5 texts"):
        fit(TEXTS, dim)


def test_texts_without_words() -> None:
    with pytest.raises(UserError, match=r"^text_model=tfidf: empty vocabulary"):
        fit(["", " "], 1)
