"""Learning curves: one run with its loss terms, and several models in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_siger.report.figures import (
    BEST,
    COLORS,
    MARKERS,
    column_figure,
    column_style,
    literal,
    metric_label,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_overlay", "mean_curve"]

Curve = tuple[Sequence[int], Sequence[float]]
"""Epochs with a validation, and the values of the metric."""

_LINES = ("-", "--", ":", "-.")


def draw_curves(
    epochs: Sequence[int],
    losses: Mapping[str, Sequence[float]],
    metric: str,
    valid: Sequence[float | None],
    best_epoch: int | None,
    title: str = "",
) -> Figure:
    """Draw the validation metric above the loss terms, epoch by epoch, with the best epoch marked.

    Each loss term has a panel and a scale of its own, because terms can differ by many powers of ten.

    Args:
        epochs: Numbers of the epochs, length ``n``.
        losses: Mean of each loss term per epoch, ``n`` values each.
        metric: Name of the validation metric.
        valid: Values of the metric, None for an epoch without validation.
        best_epoch: The epoch that was tested.
        title: Name of the run.
    """
    n_terms = max(len(losses), 1)
    with column_style():
        figure, axes = column_figure(
            1 + n_terms, 1, height=2.1 + 0.8 * n_terms, sharex=True, height_ratios=[2, *[1] * n_terms]
        )
        top, terms = axes[0, 0], axes[1:, 0]
        seen = [(epoch, value) for epoch, value in zip(epochs, valid, strict=True) if value is not None]
        marker = "o" if len(seen) < 25 else None
        top.plot([e for e, _ in seen], [v for _, v in seen], color=COLORS[0], marker=marker, markersize=3)
        top.set_ylabel(literal(f"validation {metric_label(metric)}"))
        best = dict(seen).get(best_epoch) if best_epoch is not None else None
        if best is not None:
            top.plot([best_epoch], [best], "*", color=BEST, markersize=8, zorder=3, clip_on=False)
            top.set_title(f"\u2605 best epoch {best_epoch}: {best:.4f}", loc="right", color=BEST)
        for axis, (name, values) in zip(terms, losses.items(), strict=False):
            _draw_term(axis, epochs, name, values)
        terms[-1].set_xlabel("epoch")
        whole_numbers(terms[-1])
        figure.supylabel("mean training loss, each term on its own scale", fontsize=7)
        if title:
            figure.suptitle(literal(title), fontsize=8)
        return figure


def _draw_term(axis: Axes, epochs: Sequence[int], name: str, values: Sequence[float]) -> None:
    axis.plot(epochs, values, color=COLORS[2], marker="o" if len(epochs) == 1 else None)
    axis.set_title(literal(name.replace("_", " ")), loc="left", fontsize=7, pad=2)
    finite = [value for value in values if np.isfinite(value)]
    if finite:
        axis.set_title(f"last {finite[-1]:.3g}", loc="right", fontsize=7, pad=2, color="#555555")
    axis.locator_params(axis="y", nbins=3)
    axis.ticklabel_format(axis="y", scilimits=(-2, 3), useOffset=False)
    axis.yaxis.get_offset_text().set_visible(False)  # would cover the name of the term
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def mean_curve(curves: Sequence[Curve]) -> tuple[list[int], list[float], list[float]]:
    """Return the epochs that all curves have, and mean and standard deviation (n - 1; 0 for one curve).

    >>> mean_curve([([0, 1, 2], [0.1, 0.2, 0.3]), ([0, 1], [0.3, 0.4])])[:2]
    ([0, 1], [0.2, 0.30000000000000004])
    """
    by_epoch = [dict(zip(*curve, strict=True)) for curve in curves]
    shared = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    values = np.array([[one[epoch] for epoch in shared] for one in by_epoch])
    spread = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(shared))
    return shared, values.mean(axis=0).tolist() if shared else [], spread.tolist()


def draw_overlay(curves: Mapping[str, Sequence[Curve]], metric: str, title: str = "") -> Figure:
    """Draw the validation metric of several models, with mean and standard deviation over their seeds.

    A mean ends where the first seed stopped; a thin line is one seed. A model of one epoch is a level line.

    Args:
        curves: ``{label: one curve a seed}``.
        metric: Name of the metric.
        title: Above the picture.
    """
    with column_style():
        rows = -(-len(curves) // 2)
        figure, axes = column_figure(height=2.5 + 0.16 * rows, width=4.6)
        axis = axes[0, 0]
        for number, (label, of_seeds) in enumerate(curves.items()):
            style: dict[str, Any] = {
                "color": COLORS[number % (len(COLORS) - 1)],  # the last colour, yellow, is faint on white
                "linestyle": _LINES[number // (len(COLORS) - 1) % len(_LINES)],
            }
            epochs, mean, std = mean_curve(of_seeds)
            name = literal(label if len(label) < 40 else f"{label[:39]}\u2026")
            if len(of_seeds) > 1:
                for seed_epochs, values in of_seeds:
                    axis.plot(seed_epochs, values, **style, lw=0.5, alpha=0.5)
                low, high = np.array(mean) - std, np.array(mean) + std
                axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, lw=0)
            if len(epochs) == 1:
                axis.axhline(mean[0], **{**style, "linestyle": (0, (4, 3))}, lw=0.8)
            marker = MARKERS[number % len(MARKERS)]
            axis.plot(epochs, mean, **style, marker=marker, markevery=max(1, len(epochs) // 8), label=name)
        axis.set_xlabel("epoch")
        axis.set_ylabel(literal(f"validation {metric_label(metric)}"))
        whole_numbers(axis)
        figure.legend(loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(literal(title), fontsize=8)
        return figure
