"""Pictures of run folders, and one offline page of several runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_siger.common.files import check_output, write_text
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.report.comparison import Entry
from recbole_siger.report.curves import draw_curves
from recbole_siger.report.examples import example_section
from recbole_siger.report.figures import FIGURES, check_matplotlib, draw_points, save_figure
from recbole_siger.report.grouping import group_runs, open_runs
from recbole_siger.report.html import details, element, page, picture
from recbole_siger.report.sections import (
    cost_section,
    metric_section,
    overlay_section,
    run_facts,
    slice_section,
)
from recbole_siger.report.tables import expand_names
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import load_experiment
from recbole_siger.training.settings import run_settings

__all__ = ["curves_of", "item_vectors", "report_curves", "report_page", "report_vectors", "vectors_of"]

MAX_POINTS = 3000  # t-SNE of more points needs minutes, and the points would cover each other


def report_curves(run_dir: str, out: Sequence[str]) -> None:
    """Draw the learning curves of a run, finished or not."""
    paths = expand_names(out, FIGURES)
    figure = curves_of(RunFolder.open(run_dir))
    for path in paths:
        save_figure(figure, path)


def report_vectors(run_dir: str, out: Sequence[str], data_path: str | None = None) -> None:
    """Draw the item vectors of a run's best epoch in the plane, by t-SNE."""
    paths = expand_names(out, FIGURES)
    check_matplotlib()
    figure = vectors_of(run_dir, data_path)
    for path in paths:
        save_figure(figure, path)


def curves_of(run: RunFolder) -> Any:
    """Return the figure of a run's learning curves.

    Raises:
        UserError: If no epoch has finished.
    """
    check_matplotlib()
    records, config = run.read_metrics(), run.read_config()
    if not records:
        raise UserError(f"{run.file('metrics.jsonl')}: empty; the run has not finished an epoch")
    metric = str(config.get("valid_metric", "")).lower()
    names = list(dict.fromkeys(name for record in records for name in record["loss"]))
    return draw_curves(
        [record["epoch"] for record in records],
        {name: [record["loss"].get(name, np.nan) for record in records] for name in names},
        metric,
        [(record["valid"] or {}).get(metric) for record in records],
        records[-1]["best_epoch"],
        f"{config['model']} on {config['dataset']}, seed {config.get('seed')}",
    )


def vectors_of(run_dir: str | Path, data_path: str | None = None) -> Any:
    """Return the figure of a run's item vectors: t-SNE of the items that occur in training, by popularity.

    At most 3,000 items are drawn, the same items each time.

    Raises:
        UserError: If the model has no item vectors, or the run cannot be rebuilt.
    """
    from sklearn.manifold import TSNE

    vectors, counts, name = item_vectors(run_dir, data_path)
    items = np.flatnonzero(counts)
    if len(items) < 3:
        raise UserError(f"{run_dir}: {len(items)} items occur in training; a map needs 3 or more")
    if len(items) > MAX_POINTS:
        items = np.sort(np.random.default_rng(0).choice(items, MAX_POINTS, replace=False))
    mapped = TSNE(init="pca", perplexity=min(30.0, (len(items) - 1) / 3), random_state=0)
    title = f"{name}: {len(items):,} items, t-SNE"
    return draw_points(mapped.fit_transform(vectors[items]), counts[items], "training interactions", title)


def item_vectors(
    run_dir: str | Path, data_path: str | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], str]:
    """Rebuild a run and return the item vectors of its model.

    Returns:
        Vectors ``(n_items, d)`` and training interactions ``(n_items,)`` by internal id, padding first, and a
        name of the run.

    Raises:
        UserError: If the model has no item vectors, or the run cannot be rebuilt.
    """
    experiment = load_experiment(run_dir, data_path)
    model, config = experiment.model.eval(), experiment.config
    found: Any = None
    with run_settings(config), torch.no_grad():
        if not inspect.signature(model.forward).parameters:  # a graph model's users and items
            found = model.forward()
            found = found[1] if isinstance(found, tuple) and len(found) > 1 else None
        if found is None:
            found = getattr(getattr(model, "item_embedding", None), "weight", None)
    n_items = experiment.dataset.item_num
    if found is None or found.dim() != 2 or len(found) < n_items:
        raise UserError(
            f"{run_dir}: {config['model']} has no vectors of items; choose a model with embeddings"
        )
    train = experiment.train_data._dataset
    counts = np.bincount(train.inter_feat[train.iid_field].numpy(), minlength=n_items)
    return found[:n_items].detach().cpu().numpy(), counts, f"{config['model']} on {config['dataset']}"


# ---- the page


def report_page(
    runs: Sequence[str], out: str = "report.html", *, vectors: bool = False, data_path: str | None = None
) -> None:
    """Write one HTML page of finished runs. All pictures are in the file, so the page needs no network.

    Each dataset and each protocol has its own tables, because only such numbers are comparable. Runs whose
    configurations differ only in the seed are one row.

    Args:
        runs: Run folders.
        out: The page.
        vectors: Whether to add a map of item vectors. Each model is rebuilt for this map.
        data_path: Folder of the datasets, for ``vectors``.

    Raises:
        UserError: If a folder is not a finished run, or ``out`` cannot be written.
    """
    if not out.endswith((".html", ".htm")):
        raise UserError(f"--out: {out!r}: the name must end in .html")
    check_output(out)
    check_matplotlib()
    folders = open_runs(runs)
    results = {run.path: run.read_results() for run in folders}
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    counted = f"{len(folders)} run{'s' if len(folders) > 1 else ''}"
    parts = [element("p", f"{counted}. Written {now} by recbole_siger {version('recbole-siger')}.", "quiet")]
    for heading, entries in _tables(folders, results):
        parts.append(element("h2", heading))
        parts.append(_compared(heading, entries, results))
        for entry in entries:
            shown = "".join(_run(run, results[run.path], vectors, data_path) for run in entry.runs)
            n_runs = len(entry.runs)
            parts.append(details(f"{entry.label}: {n_runs} run{'s' if n_runs > 1 else ''} in detail", shown))
    write_text(Path(out), page("Runs of recbole_siger", parts))
    print_line(f"{out}: {counted}")


def _tables(
    folders: Sequence[RunFolder], results: Mapping[Path, Mapping[str, Any]]
) -> Iterator[tuple[str, list[Entry]]]:
    """Yield a heading and the entries of each dataset and protocol.

    Where the seed draws the split, each seed has a protocol id of its own: entries with the same ids share a
    table.
    """
    by_dataset: dict[str, list[RunFolder]] = {}
    for run in folders:
        by_dataset.setdefault(results[run.path]["dataset"], []).append(run)
    for dataset, runs in by_dataset.items():
        tables: dict[tuple[str, ...], list[Entry]] = {}
        for entry in group_runs(runs):
            own = [results[run.path] for run in entry.runs]
            ids = {f"{one['protocol']} {one.get('protocol_id', '')}".strip() for one in own}
            tables.setdefault(tuple(sorted(ids)), []).append(entry)
        for names, entries in tables.items():
            yield f"{dataset}, protocol {', '.join(names)}", entries


def _compared(heading: str, entries: Sequence[Entry], results: Mapping[Path, Mapping[str, Any]]) -> str:
    """Return the tables and pictures that all entries share."""
    of_label = {entry.label: [results[run.path] for run in entry.runs] for entry in entries}
    first = entries[0].runs[0]
    metric = str(first.read_config().get("valid_metric", "")).lower()
    return "\n".join(
        [
            metric_section(of_label),
            overlay_section(entries, results[first.path]["dataset"]),
            slice_section(of_label, metric),
            cost_section(entries, of_label),
            example_section(entries),
        ]
    )


def _run(run: RunFolder, result: Mapping[str, Any], vectors: bool, data_path: str | None) -> str:
    name = f"{result['model']} on {result['dataset']}, seed {result['seed']}"
    parts = [element("h3", name), f"<p>{element('code', str(run.path))}</p>"]
    parts.append(picture(curves_of(run), f"Learning curves of {name}"))
    if vectors:
        parts.append(picture(vectors_of(run.path, data_path), f"Item vectors of {name}"))
    return "\n".join([*parts, run_facts(run, result)])
