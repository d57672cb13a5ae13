"""Vectors of texts: TF-IDF of words and pairs of words, reduced by a truncated SVD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recbole_siger.errors import UserError

__all__ = ["MAX_TERMS", "TextVectors"]

MAX_TERMS = 50_000
"""The number of terms is limited: word pairs grow with the texts, and the SVD grows with the terms."""

ZERO = 1e-9
"""Texts have unit length before the SVD; a vector shorter than this after the SVD is rounding."""


class TextVectors:
    """A fitted map from texts to vectors of unit length.

    Equal texts give equal bits on any number of threads. A matrix product on more threads would add in
    another order, so the linear algebra runs on one thread.

    Args:
        texts: All texts that the map is fitted to.
        dim: Length of the vectors, from 1 to less than the number of texts and of terms.
        option: Option that sets ``dim``, for errors.
        source: Option that selects the texts, for errors.

    Attributes:
        dim: Length of the vectors.
        idf: Inverse document frequency of each term, shape ``(n_terms,)``.
        components: Right singular vectors, shape ``(dim, n_terms)``.

    Raises:
        UserError: If no text has a word, or ``dim`` is out of range.
    """

    def __init__(self, texts: Iterable[str], dim: int, *, option: str, source: str) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.dim = dim
        self._vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=MAX_TERMS)
        try:
            tfidf = self._vectorizer.fit_transform(texts)
        except ValueError as error:  # "empty vocabulary"
            raise UserError(f"{source}: {error}; choose other columns") from error
        if not 1 <= dim < min(tfidf.shape):
            raise UserError(
                f"{option}={dim}: expected a number in [1, {min(tfidf.shape) - 1}] for {tfidf.shape[0]:,} "
                f"texts with {tfidf.shape[1]:,} terms"
            )
        with threadpool_limits(limits=1):
            self._svd = TruncatedSVD(n_components=dim, random_state=0).fit(tfidf)
        self.idf: NDArray[np.float64] = self._vectorizer.idf_
        self.components: NDArray[np.float64] = self._svd.components_

    def encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return one row for each text, float32, shape ``(n, dim)``.

        A row has unit length; the row of a text without a known term is zero.
        """
        rows = list(texts)
        if not rows:
            return np.zeros((0, self.dim), dtype=np.float32)
        with threadpool_limits(limits=1):
            reduced: NDArray[Any] = self._svd.transform(self._vectorizer.transform(rows))
        length = np.linalg.norm(reduced, axis=1, keepdims=True)
        unit = np.where(length > ZERO, reduced / np.maximum(length, ZERO), 0.0)
        return np.asarray(unit, dtype=np.float32)
