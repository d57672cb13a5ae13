"""Pictures of a search: the values and scores of its trials, and the importance of its options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.report.figures import (
    BEST,
    COLORS,
    WIDTH,
    column_figure,
    column_style,
    literal,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_importance", "draw_parallel", "draw_search", "importance"]

MAX_LABEL = 14  # letters of a value in the picture


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
    """Draw parallel coordinates: a line per trial, coloured by the score, and a band of labels per option.

    The best trial is a thick line on top, and its score is above the picture.

    Args:
        levels: The values of each option from bottom to top. A band with many values shows five of them.
        places: Rank of each trial's value in ``levels``, shape ``(n, len(levels))``.
        score: Shape ``(n,)``.
        label: Name of the score.
        bigger: Whether a higher score is better; better trials are drawn last.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    with column_style():
        bands = _bands(levels)
        span = bands[-1][1]
        figure, axes = column_figure(height=2.6, width=max(WIDTH, span + 1.0))
        panel = axes[0, 0]
        low, high = float(score.min()), float(score.max())
        colors = ScalarMappable(Normalize(low, high if high > low else low + 1e-9), "viridis")
        tops = np.array([max(len(names) - 1, 1) for names in levels.values()])
        # A small offset, so that equal values do not hide each other. It is the same for every drawing.
        heights = places / tops + np.random.default_rng(0).uniform(-0.015, 0.015, places.shape)
        order = np.argsort(score if bigger else -score)
        for trial in order:
            best = trial == order[-1]
            color = BEST if best else colors.to_rgba(score[trial])
            style = {"color": color, "lw": 2.2 if best else 0.7, "alpha": 1.0 if best else 0.75}
            _draw_trial(panel, bands, heights[trial], style)
        for (left, right), names in zip(bands, levels.values(), strict=True):
            _label_band(panel, (left + right) / 2, names)
        centres = [(left + right) / 2 for left, right in bands]
        panel.set_xticks(centres, [literal(name) for name in levels], rotation=30, ha="right")
        panel.set_xlim(-0.05, span + 0.05)
        panel.set_ylim(-0.08, 1.08)
        panel.set_yticks([])
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.tick_params(axis="x", length=0)
        panel.set_title(f"\u2605 thick line, best trial: {score[order[-1]]:.4f}", loc="left", color=BEST)
        figure.colorbar(colors, ax=panel, label=literal(label))
        return figure


def _bands(levels: Mapping[str, Sequence[str]]) -> list[tuple[float, float]]:
    """Return left and right end of the band of each option, in inches: as wide as its labels.

    Lines are drawn between bands and labels inside, so no label covers a line.
    """
    bands, left = [], 0.0
    for names in levels.values():
        width = 0.08 + 0.055 * max(min(len(name), MAX_LABEL) for name in names)  # of 6 points
        bands.append((left, left + width))
        left += width + 0.5
    return bands


def _draw_trial(
    panel: Axes, bands: Sequence[tuple[float, float]], heights: NDArray[Any], style: Mapping[str, Any]
) -> None:
    for place, height in enumerate(heights):
        if place + 1 < len(bands):
            panel.plot([bands[place][1], bands[place + 1][0]], heights[place : place + 2], **style)
        if len(bands) == 1:  # nothing to connect: a stroke beside the label
            panel.plot([bands[0][1], bands[0][1] + 0.2], [height, height], **style)


def _label_band(panel: Axes, centre: float, names: Sequence[str]) -> None:
    """Write the values of an option from bottom to top; five of many."""
    shown = range(len(names)) if len(names) <= 8 else np.linspace(0, len(names) - 1, 5).astype(int)
    for place in shown:
        name = names[place]
        text = name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}\u2026"
        height = place / max(len(names) - 1, 1)
        panel.text(centre, height, literal(text), fontsize=6, ha="center", va="center")


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
