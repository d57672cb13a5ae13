"""Pictures of a search: the values and scores of its trials, and the importance of its options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.report.figures import COLORS, column_figure, column_style, literal, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_importance", "draw_parallel", "draw_search", "importance"]


def draw_search(
    rows: Sequence[tuple[Mapping[str, Any], float]], metric: str, folder: Path, *, bigger: bool = True
) -> list[Path]:
    """Write ``parallel.png`` and ``importance.png``; nothing if no option has two values.

    Args:
        rows: Point and score of each trial.
        metric: Name of the score, for the axes.
        folder: Folder of the pictures.
        bigger: Whether a higher score is better.

    Returns:
        The files written.
    """
    keys = [key for key in rows[0][0] if len({_text(point[key]) for point, _ in rows}) > 1] if rows else []
    if not keys:
        return []
    levels = {key: _levels([point[key] for point, _ in rows]) for key in keys}
    score = np.array([score for _, score in rows])
    places = np.array([[levels[key].index(_text(point[key])) for key in keys] for point, _ in rows])
    figures = {"parallel": draw_parallel(levels, places, score, f"valid {metric}", bigger=bigger)}
    if len(rows) >= 8:  # fewer trials say nothing about importance
        figures["importance"] = draw_importance(importance(places, score, keys), f"valid {metric}")
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def importance(
    places: NDArray[Any], score: NDArray[Any], keys: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return the R² that a random forest loses when the values of one option are shuffled.

    Args:
        places: Ranks of the values, shape ``(n, len(keys))``.
        score: Shape ``(n,)``.
        keys: Option names.

    Returns:
        Mean and standard deviation over 20 shufflings of the loss in R², by option; at most about 2.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(200, min_samples_leaf=2, random_state=0).fit(places, score)
    found = permutation_importance(forest, places, score, n_repeats=20, random_state=0)
    return {
        key: (float(mean), float(std))
        for key, mean, std in zip(keys, found.importances_mean, found.importances_std, strict=True)
    }


def draw_parallel(
    levels: Mapping[str, Sequence[str]],
    places: NDArray[Any],
    score: NDArray[Any],
    label: str,
    *,
    bigger: bool = True,
) -> Figure:
    """Draw parallel coordinates: one line per trial, coloured by the score, and one axis per option.

    Args:
        levels: The values of each option from bottom to top. An axis with many values shows five of them.
        places: Rank of each trial's value in ``levels``, shape ``(n, len(levels))``.
        score: Shape ``(n,)``.
        label: Name of the score.
        bigger: Whether a higher score is better; better trials are drawn last.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    with column_style():
        figure, axes = column_figure(height=2.4)
        panel = axes[0, 0]
        low, high = float(score.min()), float(score.max())
        colors = ScalarMappable(Normalize(low, high if high > low else low + 1e-9), "viridis")
        tops = np.array([max(len(names) - 1, 1) for names in levels.values()])
        heights = places / tops
        # A small offset, so that equal values do not hide each other. It is the same for every drawing.
        heights = heights + np.random.default_rng(0).uniform(-0.015, 0.015, heights.shape)
        for trial in np.argsort(score if bigger else -score):
            panel.plot(heights[trial], color=colors.to_rgba(score[trial]), lw=0.8, alpha=0.9)
        for x, names in enumerate(levels.values()):
            panel.axvline(x, color="black", lw=0.6, zorder=0)
            shown = range(len(names)) if len(names) <= 8 else np.linspace(0, len(names) - 1, 5).astype(int)
            for place in shown:
                text = panel.text(
                    x, place / max(len(names) - 1, 1), f" {literal(names[place])}", fontsize=6, va="center"
                )
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.7})
        panel.set_xticks(range(len(levels)), [literal(name) for name in levels], rotation=30, ha="right")
        panel.set_xlim(-0.2, len(levels) - 0.5)
        panel.set_yticks([])
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.tick_params(axis="x", length=0)
        figure.colorbar(colors, ax=panel, label=literal(label))
        return figure


def draw_importance(found: Mapping[str, tuple[float, float]], label: str) -> Figure:
    """Draw one bar per option with its standard deviation, the most important option on top.

    Args:
        found: ``{option: (mean, standard deviation)}`` of the loss in R².
        label: What the score is.
    """
    with column_style():
        order = sorted(found, key=lambda key: found[key][0])
        figure, axes = column_figure(height=0.7 + 0.2 * len(order))
        panel = axes[0, 0]
        means, stds = zip(*(found[key] for key in order), strict=True)
        names = [literal(key) for key in order]
        panel.barh(names, means, xerr=stds, color=COLORS[0], height=0.65, error_kw={"lw": 0.8, "capsize": 2})
        panel.axvline(0, color="black", lw=0.6)
        panel.set_xlabel(f"importance for {literal(label)}\n(R² lost when the option is shuffled)")
        return figure


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _levels(values: Sequence[Any]) -> list[str]:
    """Return the distinct values as text, numbers ascending."""
    distinct = {_text(value): value for value in values}
    numbers = all(isinstance(value, int | float) for value in distinct.values())
    return sorted(distinct, key=(lambda text: distinct[text]) if numbers else None)
