"""Long computations log how far they are; short ones log nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from recbole_siger.common import progress
from recbole_siger.common.progress import LoggedProgress
from recbole_siger.graph.knn import semantic_graph, similarity_graph
from recbole_siger.graph.omp import subspace_graph

ROWS = torch.randn(300, 7, generator=torch.Generator().manual_seed(5))


def test_a_line_every_thirty_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter((100.0, 101.0, 130.5, 130.5, 140.0, 161.0, 161.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    told = LoggedProgress("counting", 2_000_000, "items")
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            told.advance(300_000)
    assert caplog.messages == [
        "counting: 600,000 of 2,000,000 items",
        "counting: 1,200,000 of 2,000,000 items",
    ]


@pytest.mark.parametrize(
    ("build", "last"),
    [
        (lambda: semantic_graph(ROWS, 3, chunk_size=100), "nearest rows: 3 of 3 pairs of blocks"),
        (lambda: similarity_graph(ROWS, ROWS[:40], 3, same=False), "nearest atoms: 300 of 300 rows"),
        (lambda: subspace_graph(ROWS, ROWS, 9, 3, same=True), "nearest atoms: 300 of 300 rows"),
    ],
)
def test_the_graphs_of_large_tables_tell(
    build: Callable[[], object], last: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        build()
        assert not caplog.messages  # in less than 30 seconds
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
        build()
    assert caplog.messages[-1] == last
