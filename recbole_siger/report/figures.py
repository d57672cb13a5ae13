"""Pictures from plain numbers, at the width of a paper's column.

The colours are Okabe and Ito's, which people with any colour vision can distinguish. Markers and hatches
differ as well.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_siger.common.files import atomic_path
from recbole_siger.common.terminal import plain
from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import bigger_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "check_matplotlib",
    "column_figure",
    "column_style",
    "draw_bars",
    "draw_histograms",
    "draw_points",
    "draw_sweep",
    "literal",
    "save_figure",
    "svg_bytes",
    "whole_numbers",
]

FIGURES = ("png", "svg", "pdf")

WIDTH = 3.3  # inches, one column
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BEST = "#B84C00"  # a darker vermillion, readable as text: of the best epoch, value or trial
MARKERS = "osD^vP*X"
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "--", "oo")

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "recbole-siger",  # the same picture, the same file
    "svg.fonttype": "path",  # the same on every machine
    "pdf.fonttype": 42,  # text that can be searched, as publishers ask
}


def check_matplotlib() -> None:
    """Raise a UserError with the fix if matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise UserError("figures need matplotlib; pip install 'recbole-siger[figures]'")


@contextmanager
def column_style() -> Iterator[None]:
    """Draw in the style of all pictures.

    Raises:
        UserError: If matplotlib is missing.
    """
    check_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def column_figure(
    n_rows: int = 1, n_columns: int = 1, height: float = 2.2, *, width: float = WIDTH, **options: Any
) -> tuple[Figure, Any]:
    """Make a figure without pyplot, so that no window system and no global state is touched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the suffix, ``.png``, ``.svg`` or ``.pdf``, without a date in it.

    Raises:
        UserError: For another suffix.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FIGURES:
        raise UserError(
            f"--out: {str(path)!r}: the name must end in {', '.join('.' + one for one in FIGURES)}"
        )
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with column_style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=dateless)


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG file."""
    stream = io.BytesIO()
    with column_style():
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def literal(text: object) -> str:
    r"""Return text that matplotlib draws as it is: on one line, and without formulas between dollar signs.

    >>> literal("a $x_1$\tb")
    'a \\$x_1\\$\\tb'
    """
    return plain(text).replace("$", r"\$")


def metric_label(name: str) -> str:
    """Name a metric as papers do.

    >>> metric_label("ndcg@20"), metric_label("recall@10")
    ('NDCG@20', 'Recall@10')
    """
    base, at, k = name.partition("@")
    return (base.upper() if base in ("ndcg", "mrr", "map", "auc") else base.capitalize()) + at + k


def _legend_columns(n: int) -> int:
    """Return the columns of a legend of ``n`` entries, in the fewest rows of at most three entries."""
    return -(-n // -(-n // 3)) if n else 1


def _places(values: Sequence[Any]) -> list[Any]:
    """Return the positions of an option's values on an axis as wide as a column.

    >>> _places([2, 3, 5, 8, 10]), _places([0.001, 0.01, 0.1]), _places(["mp", "da"])
    ([2, 3, 5, 8, 10], [0, 1, 2], [0, 1])
    """
    side_by_side = list(range(len(values)))
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return side_by_side
    gaps = np.diff(np.sort(np.asarray(values, dtype=float)))
    room = 0.02 * (1 + max(len(str(value)) for value in values))  # of the axis, for the longest label
    return list(values) if not len(gaps) or gaps.min() >= room * gaps.sum() else side_by_side


def draw_sweep(
    key: str,
    values: Sequence[Any],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    title: str = "",
) -> Figure:
    """Draw metrics against the values of one option, with the standard deviation over seeds as error bars.

    A star marks the best mean of each metric.

    Args:
        key: The option.
        values: Values of the option. They are drawn at equal distances if they are not numbers, or if their
            labels would overlap.
        curves: ``{metric: (means, deviations)}``, one panel per metric; None for a single seed.
        title: Above the picture.
    """
    places = _places(values)
    with column_style():
        height = 1.1 + 1.1 * len(curves)
        figure, axes = column_figure(len(curves), 1, height=height, sharex=True)
        several = False
        for number, (axis, (metric, (means, deviations))) in enumerate(
            zip(axes[:, 0], curves.items(), strict=True)
        ):
            spread = [deviation or 0.0 for deviation in deviations]
            several = several or any(spread)
            axis.errorbar(
                places,
                means,
                yerr=spread if any(spread) else None,
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
                capsize=2,
            )
            pick = np.argmax if bigger_is_better(metric) else np.argmin
            best = int(pick(means))
            axis.plot([places[best]], [means[best]], "*", color=BEST, markersize=9, zorder=3)
            axis.set_title(
                literal(f"\u2605 {values[best]}: {means[best]:.4f}"), loc="right", color=BEST, pad=2
            )
            axis.set_ylabel(literal(metric_label(metric)))
            axis.margins(y=0.25)
        axis.set_xticks(places, [literal(value) for value in values])
        axis.set_xlabel(literal(key) + ("\nbars: standard deviation over seeds" if several else ""))
        if title:
            figure.suptitle(literal(title), fontsize=8)
        return figure


def draw_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    ylabel: str,
    deviations: Mapping[str, Sequence[float | None]] | None = None,
    title: str = "",
) -> Figure:
    """Draw grouped bars, such as models (series) on cold items by metric (groups).

    Args:
        groups: Names under the axis, length ``n``.
        series: ``{label: n heights}``; no bar for None.
        ylabel: Name of the vertical axis.
        deviations: ``{label: n standard deviations over seeds}``, as error bars.
        title: Above the picture.
    """
    with column_style():
        figure, axes = column_figure(height=2.3)
        axis = axes[0, 0]
        width = 0.8 / max(len(series), 1)
        placed: list[tuple[float, Sequence[float | None], str]] = []
        for number, (label, heights) in enumerate(series.items()):
            offset = (number - (len(series) - 1) / 2) * width
            spread = [deviation or 0.0 for deviation in (deviations or {}).get(label, [])]
            axis.bar(
                [place + offset for place in range(len(groups))],
                [np.nan if height is None else height for height in heights],
                width,
                label=literal(label),
                color=COLORS[number % len(COLORS)],
                hatch=HATCHES[number % len(HATCHES)],
                edgecolor="white",
                linewidth=0.4,
                yerr=spread if any(spread) else None,
                error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "black"},
            )
            placed.append((offset, heights, COLORS[number % len(COLORS)]))
        _label_low_bars(axis, placed)
        axis.set_xticks(range(len(groups)), [literal(group) for group in groups])
        axis.set_ylabel(literal(ylabel))
        columns = _legend_columns(len(series))
        figure.legend(loc="outside upper center", ncols=columns, title=literal(title) or None)
        return figure


def _label_low_bars(axis: Axes, placed: Sequence[tuple[float, Sequence[float | None], str]]) -> None:
    """Write the value above each bar that is too low to be seen, so that 0 and no bar differ.

    Args:
        axis: Where the bars are.
        placed: For each series the offset of its bars from 0, 1, ..., the heights, and the colour.
    """
    drawn = [abs(height) for _, heights, _ in placed for height in heights if height is not None]
    low = 0.005 * max(drawn, default=0.0)
    for offset, heights, color in placed:
        for place, height in enumerate(heights):
            if height is not None and abs(height) <= low:
                axis.annotate(
                    f"{height:.2g}" if height else "0",
                    (place + offset, max(height, 0.0)),
                    xytext=(0, 1.5),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=6,
                    color="black" if color == "#F0E442" else color,
                    rotation=0 if height == 0 else 90,
                )


def draw_histograms(
    panels: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str], n_bins: int, xlabel: str
) -> Figure:
    """Draw shares of items by a small count, with one panel per name and one series per label.

    Args:
        panels: ``{name: [counts of each label]}``, counts in 0 ... ``n_bins - 1``.
        labels: Names of the series.
        n_bins: Number of bins.
        xlabel: Name of the count.
    """
    with column_style():
        figure, axes = column_figure(
            len(panels), 1, height=0.9 + 1.15 * len(panels), sharex=True, sharey=True
        )
        width = 0.8 / len(labels)
        for axis, (name, series) in zip(axes[:, 0], panels.items(), strict=True):
            placed: list[tuple[float, Sequence[float | None], str]] = []
            for number, (label, counts) in enumerate(zip(labels, series, strict=True)):
                share = 100 * np.bincount(np.asarray(counts), minlength=n_bins) / max(len(counts), 1)
                offset = (number - (len(labels) - 1) / 2) * width
                axis.bar(
                    np.arange(n_bins) + offset,
                    share,
                    width,
                    label=label,
                    color=COLORS[number],
                    hatch=HATCHES[number],
                    edgecolor="white",
                    linewidth=0.4,
                )
                placed.append((offset, share.tolist(), COLORS[number]))
            _label_low_bars(axis, placed)
            axis.set_title(literal(name), loc="right", pad=2)
            axis.set_ylabel("items (%)")
        axis.set_xticks(range(n_bins))
        axis.set_xlabel(xlabel)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=2)
        return figure


def draw_points(
    points: np.ndarray[Any, Any], values: np.ndarray[Any, Any], label: str, title: str = ""
) -> Figure:
    """Draw points in the plane, shaded by one value per point, such as items by popularity.

    Args:
        points: Shape ``(n, 2)``; the axes have no unit.
        values: Shape ``(n,)``, > 0, on a logarithmic scale.
        label: Name of the values.
        title: Above the picture.
    """
    with column_style():
        from matplotlib.colors import LogNorm

        figure, axes = column_figure(height=2.8)
        axis: Axes = axes[0, 0]
        shown = axis.scatter(
            points[:, 0], points[:, 1], c=values, s=3, linewidths=0, cmap="viridis_r", norm=LogNorm()
        )
        figure.colorbar(shown, ax=axis, label=label, shrink=0.8)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.set_aspect("equal", adjustable="datalim")
        if title:
            figure.suptitle(literal(title), fontsize=8)
        return figure


def whole_numbers(axis: Axes) -> None:
    """Let the horizontal axis have ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
