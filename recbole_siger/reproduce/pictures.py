"""Pictures of a reproduction: published numbers and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_siger.report.figures import COLORS, column_figure, column_style, literal, metric_label
from recbole_siger.reproduce.join import Line, Reproduction
from recbole_siger.reproduce.paper import BETWEEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_reproduction"]


def draw_reproduction(found: Reproduction) -> Figure:
    """Draw a table as one row of two marks a model, and a figure as one panel an option."""
    panels = dict.fromkeys(line.panel for line in found.lines)
    with column_style():
        figure = _draw_rows(found) if [*panels] == [""] else _draw_panels(found, [*panels])
        place = literal(f"{found.table.place}, {found.dataset}")
        figure.suptitle(f"{place}\n{literal(found.note)}" if found.note else place, fontsize=8)
    return figure


def _draw_rows(found: Reproduction) -> Figure:
    metric = found.table.metric
    lines = [
        line
        for line in found.lines
        if line.cells[metric].published is not None or line.cells[metric].ours is not None
    ]
    figure, axes = column_figure(height=1.1 + 0.22 * max(len(lines), 2))
    axis: Axes = axes[0, 0]
    for place, line in enumerate(reversed(lines)):
        cell = line.cells[metric]
        if cell.published is not None and cell.ours is not None:
            axis.plot([cell.published, cell.ours], [place, place], color="#999999", linewidth=0.8, zorder=1)
    places = np.arange(len(lines))[::-1]
    _points(axis, [line.cells[metric].published for line in lines], places)
    spread = [line.cells[metric].std or 0.0 for line in lines]
    _points(axis, [line.cells[metric].ours for line in lines], places, spread)
    axis.set_yticks(places, [literal(line.label) for line in lines])
    axis.set_ylim(-0.6, max(len(lines), 1) - 0.4)
    axis.set_xlabel(literal(f"{metric_label(metric)}, test"))
    axis.grid(axis="x", linewidth=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _points(axis: Axes, values: list[float | None], places: Any, spread: list[float] | None = None) -> None:
    """Draw hollow marks for published numbers, filled marks with error bars for ours."""
    numbers = [np.nan if value is None else value for value in values]
    if spread is None:
        axis.plot(numbers, places, "s", markerfacecolor="white", color=COLORS[1], label="published", zorder=2)
        return
    errors = spread if any(spread) else None
    axis.errorbar(numbers, places, xerr=errors, fmt="o", color=COLORS[0], capsize=2, label="ours", zorder=3)


def _draw_panels(found: Reproduction, panels: list[str]) -> Figure:
    metric = found.table.metric
    figure, axes = column_figure(len(panels), 1, height=1.0 + 1.3 * len(panels))
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        lines = [line for line in found.lines if line.panel == panel]
        if grid := _grid_of(lines):
            _heat_map(axis, panel, lines, grid, metric)
            continue
        places = list(range(len(lines)))
        _curve(axis, places, lines, metric)
        axis.set_xticks(places, [literal(line.value) for line in lines])
        axis.set_xlabel(literal(panel or "row"))
        axis.set_ylabel(literal(metric_label(metric)))
        axis.margins(y=0.25)
    named = (axis.get_legend_handles_labels() for axis in axes[:, 0])
    handles, names = next((pair for pair in named if pair[0]), ([], []))
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


Grid = tuple[list[str], list[str]]


def _grid_of(lines: Sequence[Line]) -> Grid | None:
    """Return the values of two options if a panel has every pair of them, at least two of each."""
    pairs = [tuple(str(line.value).split(BETWEEN)) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        return None
    first, second = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
    whole = min(len(first), len(second)) > 1 and len(set(pairs)) == len(first) * len(second) == len(pairs)
    return (first, second) if whole else None


def _heat_map(axis: Axes, panel: str, lines: Sequence[Line], grid: Grid, metric: str) -> None:
    """Draw our values over two options, the first option downwards; a cell without a run is empty."""
    first, second = grid
    values = np.full((len(first), len(second)), np.nan)
    for line in lines:
        one, other = str(line.value).split(BETWEEN)
        ours = line.cells[metric].ours
        values[first.index(one), second.index(other)] = np.nan if ours is None else ours
    shown = axis.imshow(values, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = axis.text(column, row, f"{value:.4f}".lstrip("0"), ha="center", va="center", fontsize=6)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8})
    axis.set_xticks(range(len(second)), [*map(literal, second)])
    axis.set_yticks(range(len(first)), [*map(literal, first)])
    axis.set_xlabel(literal(f"{panel}: second option; {metric_label(metric)}, ours"))
    axis.set_ylabel("first option")
    axis.figure.colorbar(shown, ax=axis, shrink=0.9)


def _curve(axis: Axes, places: list[int], lines: list[Line], metric: str) -> None:
    cells = [line.cells[metric] for line in lines]
    published = [np.nan if cell.published is None else cell.published for cell in cells]
    ours = [np.nan if cell.ours is None else cell.ours for cell in cells]
    spread = [cell.std or 0.0 for cell in cells]
    axis.plot(places, published, "--s", markerfacecolor="white", color=COLORS[1], label="published")
    errors = spread if any(spread) else None
    axis.errorbar(places, ours, yerr=errors, fmt="-o", color=COLORS[0], capsize=2, label="ours")
