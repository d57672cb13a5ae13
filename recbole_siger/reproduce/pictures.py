"""Pictures of a reproduction: published numbers and ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_siger.report.figures import COLORS, column_figure, column_style, metric_label
from recbole_siger.reproduce.join import Line, Reproduction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_reproduction"]


def draw_reproduction(found: Reproduction) -> Figure:
    """Draw a table as one row of two marks a model, and a figure as one panel an option."""
    panels = dict.fromkeys(line.panel for line in found.lines)
    with column_style():
        figure = _draw_rows(found) if [*panels] == [""] else _draw_panels(found, [*panels])
        place = f"{found.table.place}, {found.dataset}"
        figure.suptitle(f"{place}\n{found.note}" if found.note else place, fontsize=8)
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
    axis.set_yticks(places, [line.label for line in lines])
    axis.set_ylim(-0.6, max(len(lines), 1) - 0.4)
    axis.set_xlabel(f"{metric_label(metric)}, test")
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
        places = list(range(len(lines)))
        _curve(axis, places, lines, metric)
        axis.set_xticks(places, [str(line.value) for line in lines])
        axis.set_xlabel(panel or "row")
        axis.set_ylabel(metric_label(metric))
        axis.margins(y=0.25)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _curve(axis: Axes, places: list[int], lines: list[Line], metric: str) -> None:
    cells = [line.cells[metric] for line in lines]
    published = [np.nan if cell.published is None else cell.published for cell in cells]
    ours = [np.nan if cell.ours is None else cell.ours for cell in cells]
    spread = [cell.std or 0.0 for cell in cells]
    axis.plot(places, published, "--s", markerfacecolor="white", color=COLORS[1], label="published")
    errors = spread if any(spread) else None
    axis.errorbar(places, ours, yerr=errors, fmt="-o", color=COLORS[0], capsize=2, label="ours")
