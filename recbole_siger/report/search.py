"""Pictures of a search: which values went with which score, and which options mattered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.report.figures import draw_importance, draw_parallel, save_figure

__all__ = ["draw_search", "importance"]


def draw_search(
    rows: Sequence[tuple[Mapping[str, Any], float]], metric: str, folder: Path, *, bigger: bool = True
) -> list[Path]:
    """Write ``parallel.png`` and ``importance.png``; nothing where no option has two values.

    Args:
        rows: Point and score of each trial.
        metric: Name of the score, for the axes.
        folder: Where the pictures go.
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
    if len(rows) >= 8:  # fewer tell nothing
        figures["importance"] = draw_importance(importance(places, score, keys), f"valid {metric}")
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def importance(
    places: NDArray[Any], score: NDArray[Any], keys: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return how much a random forest's fit of the score loses when one option's values are shuffled.

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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _levels(values: Sequence[Any]) -> list[str]:
    """Return the distinct values as text, numbers ascending."""
    distinct = {_text(value): value for value in values}
    numbers = all(isinstance(value, int | float) for value in distinct.values())
    return sorted(distinct, key=(lambda text: distinct[text]) if numbers else None)
