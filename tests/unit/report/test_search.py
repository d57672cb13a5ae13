"""The figures of a search show what decided the score."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from recbole_siger.report.search import draw_search, importance


def test_the_option_that_decides_is_the_important_one() -> None:
    places = np.array(list(itertools.product(range(4), range(3), range(2))))
    found = importance(places, np.square(places[:, 0]) * 1.0, ["decides", "idle", "idle too"])
    assert found["decides"][0] > 1
    assert max(found["idle"][0], found["idle too"][0]) < 0.05


def test_pictures_of_a_search(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [{"a": a, "b": b, "fixed": 1} for a in (1e-5, 0.5, 20) for b in ("x", "y", [1, 2])]
    rows = [(point, float(number)) for number, point in enumerate(points)]
    assert draw_search(rows, "recall@20", tmp_path) == [
        tmp_path / "parallel.png",
        tmp_path / "importance.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert draw_search(rows[:4], "recall@20", tmp_path) == [tmp_path / "parallel.png"]  # too few to weigh
    assert draw_search(rows[:1], "recall@20", tmp_path) == []
    assert draw_search([], "recall@20", tmp_path) == []
