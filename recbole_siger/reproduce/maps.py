"""Item embeddings of finished runs in the plane, by category: one panel for each row, Figure 4 of SCALE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.errors import UserError
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.report.figures import COLORS, MARKERS, column_figure, column_style, literal
from recbole_siger.reproduce.join import Reproduction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ItemMap", "draw_maps", "first_categories", "map_of_run", "maps_of"]

N_CATEGORIES = 6
MAX_POINTS = 1_500
"""t-SNE of more points takes minutes, and the points cover each other."""


@dataclass(frozen=True)
class ItemMap:
    """Items of one run in the plane.

    Attributes:
        label: Row of the table.
        points: Shape ``(n, 2)``; the axes have no unit.
        categories: Category of each point, length n.
    """

    label: str
    points: NDArray[np.float64]
    categories: tuple[str, ...]


def maps_of(found: Reproduction) -> list[ItemMap]:
    """Map the items of the first finished run of each row that the table names.

    Raises:
        UserError: If a row has no finished run, or a run has no vectors, no item texts or no such column.
    """
    spec = found.table.item_map
    assert spec is not None
    column = spec.columns.get(found.dataset)
    if column is None:
        raise UserError(f"{found.table.file}: map.columns: has no column of categories for {found.dataset}")
    folders = {line.label: line.folders for line in found.lines}
    missing = [label for label in spec.rows if not folders[label]]
    if missing:
        raise UserError(f"{found.table.name}: no finished run of {', '.join(missing)}")
    return [map_of_run(label, folders[label][0], column, spec.separator) for label in spec.rows]


def map_of_run(label: str, run_dir: str, column: str, separator: str) -> ItemMap:
    """Map the items of the most frequent categories by t-SNE; at most 1,500, the same items each time.

    Args:
        label: Name of the map.
        run_dir: A finished run, with ``embeddings.safetensors`` and ``items.tsv``.
        column: Column of ``items.tsv`` with the categories.
        separator: What separates several categories of an item; the first counts.

    Raises:
        UserError: If the run has no item vectors, no item texts, no such column, or too few items.
    """
    from sklearn.manifold import TSNE

    recommender = Recommender.load(run_dir)
    vectors = recommender.embeddings()
    texts = recommender.item_texts(vectors.items)
    if column not in texts:
        known = ", ".join(name for name in texts.columns if name != "item") or "none"
        raise UserError(f"{run_dir}: items.tsv has no column {column!r} (columns: {known})")
    categories = first_categories(texts[column].tolist(), separator)
    frequent = {name for name, _ in Counter(filter(None, categories)).most_common(N_CATEGORIES)}
    items = np.array([i for i, category in enumerate(categories) if category in frequent], dtype=np.int64)
    if len(items) < 3:
        raise UserError(f"{run_dir}: {len(items)} items have a value in {column!r}; a map needs 3 or more")
    if len(items) > MAX_POINTS:
        items = np.sort(np.random.default_rng(0).choice(items, MAX_POINTS, replace=False))
    mapped = TSNE(init="pca", perplexity=min(30.0, (len(items) - 1) / 3), random_state=0)
    points = mapped.fit_transform(vectors.item.numpy()[items]).astype(np.float64)
    return ItemMap(label, points, tuple(categories[item] for item in items))


def first_categories(texts: Sequence[str], separator: str) -> list[str]:
    """Return the first category of each text.

    Example:
        >>> first_categories(["Comedy Drama", "", "War"], " ")
        ['Comedy', '', 'War']
    """
    return [text.split(separator)[0].strip() if separator else text.strip() for text in texts]


def draw_maps(maps: Sequence[ItemMap], title: str) -> Figure:
    """Draw one panel for each map; a category has one colour and one marker in all panels."""
    names = [name for name, _ in Counter(c for one in maps for c in one.categories).most_common()]
    styles: Mapping[str, dict[str, Any]] = {
        name: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(names)
    }
    with column_style():
        figure, axes = column_figure(len(maps), 1, height=0.8 + 2.0 * len(maps))
        for axis, one in zip(axes[:, 0], maps, strict=True):
            of = np.array(one.categories)
            for name in names:
                x, y = one.points[of == name].T
                axis.scatter(x, y, s=4, linewidths=0, label=literal(name), **styles[name])
            axis.set_title(literal(one.label))
            axis.set_xticks([])
            axis.set_yticks([])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=2)
        figure.suptitle(literal(title), fontsize=8)
    return figure
