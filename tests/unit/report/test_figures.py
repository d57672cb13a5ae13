"""Figures are readable: no label over a line, the winner visible, low bars labelled, names of datasets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from recbole_siger.report.curves import draw_curves, draw_overlay, mean_curve
from recbole_siger.report.figures import BEST, draw_bars, draw_histograms, draw_sweep
from recbole_siger.report.search import draw_parallel

LEVELS = {"lr": ["0.0001", "0.001", "0.01"], "a_long_option": ["mean pooling of all", "x"], "k": ["3", "5"]}
PLACES = np.array([[i % 3, i % 2, (i // 2) % 2] for i in range(13)])


def parallel(**options: Any) -> Any:
    return draw_parallel(LEVELS, PLACES, np.arange(13.0), "valid recall@20", **options)


def test_no_label_of_the_parallel_plot_covers_a_line() -> None:
    figure = parallel()
    figure.draw_without_rendering()
    panel = figure.axes[0]
    labels = [text.get_window_extent() for text in panel.texts]
    assert len(labels) == 7
    for line in panel.lines:
        left, right = line.get_transform().transform(line.get_xydata())[:, 0]
        for box in labels:
            assert box.x1 <= left or right <= box.x0


@pytest.mark.parametrize(("bigger", "best"), [(True, 12), (False, 0)])
def test_the_best_trial_is_a_thick_line_on_top(bigger: bool, best: int) -> None:
    panel = parallel(bigger=bigger).axes[0]
    assert [line.get_color() == BEST for line in panel.lines] == [False] * 24 + [True] * 2
    assert panel.lines[-1].get_linewidth() > 2 * panel.lines[0].get_linewidth()
    assert panel.get_title(loc="left") == f"★ thick line, best trial: {best:.4f}"
    heights = PLACES[best] / (2, 1, 1)
    assert panel.lines[-2].get_ydata() == pytest.approx(heights[:2], abs=0.02)


def test_bars_of_zero_are_labelled_and_absent_bars_are_not() -> None:
    figure = draw_bars(["cold", "warm"], {"A": [0.0, 0.2], "B": [None, 0.0004]}, "Recall@20")
    axis: Any = figure.axes[0]
    labels = {text.get_text(): text.xy[0] for text in axis.texts}
    assert labels == {"0": pytest.approx(-0.2), "0.0004": pytest.approx(1.2)}
    panels = draw_histograms({"text": [[0, 0, 2], [1, 1, 1]]}, ["semantic", "enhanced"], 3, "found")
    assert [text.get_text() for text in panels.axes[0].texts] == ["0"] * 3


def test_a_sweep_marks_the_best_value_and_names_the_dataset() -> None:
    curves: dict[str, Any] = {
        "recall@20": ([0.1, 0.3, 0.2], [None] * 3),
        "giniindex@20": ([0.9, 0.8, 0.7], [None] * 3),
    }
    figure = draw_sweep("k", [2, 3, 5], curves, "SIGER on lfm2k")
    assert figure.get_suptitle() == "SIGER on lfm2k"
    assert [axis.get_title(loc="right") for axis in figure.axes] == ["★ 3: 0.3000", "★ 5: 0.7000"]
    assert [np.asarray(axis.lines[-1].get_xdata()).tolist() for axis in figure.axes] == [[3], [5]]


def test_each_loss_term_has_a_scale_of_its_own() -> None:
    losses = {"bpr": [0.7, 0.6, 0.5], "weight_decay": [1e-7, 2e-7, 3e-7]}
    figure = draw_curves([0, 1, 2], losses, "recall@20", [0.1, 0.2, 0.3], 2, "SIGER on toy")
    figure.draw_without_rendering()
    assert [axis.get_title(loc="left") for axis in figure.axes[1:]] == ["bpr", "weight decay"]
    assert [axis.get_title(loc="right") for axis in figure.axes[1:]] == ["last 0.5", "last 3e-07"]
    for axis, values in zip(figure.axes[1:], losses.values(), strict=True):
        low, high = axis.get_ylim()
        assert (max(values) - min(values)) / (high - low) > 0.5  # the line fills its panel


def test_the_mean_ends_where_the_first_seed_stopped() -> None:
    epochs, mean, std = mean_curve([([0, 1, 2], [0.1, 0.2, 0.9]), ([0, 1], [0.3, 0.6])])
    assert epochs == [0, 1]
    assert mean == pytest.approx([0.2, 0.4])
    assert std == pytest.approx([0.2 / 2**0.5, 0.4 / 2**0.5])


def test_an_overlay_has_one_entry_a_model() -> None:
    curves = {"SIGER": [([0, 1], [0.1, 0.2]), ([0, 1], [0.2, 0.3])], "EASE": [([0], [0.15])]}
    figure = draw_overlay(curves, "recall@20", "toy")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SIGER", "EASE"]
    assert figure.axes[0].get_ylabel() == "validation Recall@20"
    assert figure.get_suptitle() == "toy"
