"""Pictures of a reproduction: a panel with every pair of two options is a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recbole_siger.reproduce.join import Reproduction, RowRuns, join
from recbole_siger.reproduce.paper import PaperRow
from recbole_siger.reproduce.pictures import draw_reproduction
from tests.unit.reproduce.test_join import METRIC, paper

PAIRS = ["1 x 1", "1 x 2", "1 x 5", "3 x 1", "3 x 2", "3 x 5"]


def found(values: list[str], ours: list[float | None]) -> Reproduction:
    rows = [PaperRow(f"layers = {value}", "A", panel="layers", value=value) for value in values]
    table = replace(paper(), rows=tuple(rows), claims=())
    runs = [
        RowRuns(row, 1, [] if value is None else [{"test": {METRIC: value}}], ["runs/a"])
        for row, value in zip(rows, ours, strict=True)
    ]
    return join(table, "toy", runs)


def test_every_pair_of_two_options_is_a_grid() -> None:
    axis: Any = draw_reproduction(found(PAIRS, [0.1, 0.2, 0.3, 0.4, None, 0.6])).axes[0]
    (image,) = axis.images
    shown = np.ma.filled(image.get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, [[0.1, 0.2, 0.3], [0.4, np.nan, 0.6]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "5"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "3"]
    assert [text.get_text() for text in axis.texts] == [".1000", ".2000", ".3000", ".4000", ".6000"]


def test_dollar_signs_are_no_formulas() -> None:
    rows = [PaperRow(f"$a^$ {value}", "A") for value in "12"]
    table = replace(paper(), rows=tuple(rows), claims=(), title="$a^$")
    runs = [RowRuns(row, 1, [{"test": {METRIC: 0.1}}], ["runs/a"]) for row in rows]
    figure = draw_reproduction(join(table, "toy", runs))
    figure.draw_without_rendering()  # raises ValueError for a broken formula


def test_some_pairs_are_a_curve() -> None:
    axis: Any = draw_reproduction(found(PAIRS[:-1], [0.1, 0.2, 0.3, 0.4, 0.5])).axes[0]
    assert not axis.images
    ours = [list(map(float, line.get_ydata())) for line in axis.get_lines()]
    assert [0.1, 0.2, 0.3, 0.4, 0.5] in ours
