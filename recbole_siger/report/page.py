"""Pictures of run folders, and one offline page of several runs."""

from __future__ import annotations

import base64
import html
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_siger.common.files import write_text
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.report.figures import (
    FIGURES,
    check_matplotlib,
    draw_curves,
    draw_points,
    metric_label,
    save_figure,
    svg_bytes,
)
from recbole_siger.report.tables import expand_names
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import load_experiment
from recbole_siger.training.settings import run_settings

__all__ = ["curves_of", "item_vectors", "report_curves", "report_page", "report_vectors", "vectors_of"]

_log = logging.getLogger(__name__)

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

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }}
table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; width: 33em; }}
.wide {{ overflow-x: auto; }}
summary {{ cursor: pointer; }}
pre {{ background: #f6f6f6; padding: 1em; overflow-x: auto; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def report_page(
    runs: Sequence[str], out: str = "report.html", *, vectors: bool = False, data_path: str | None = None
) -> None:
    """Write one HTML page of finished runs. All pictures are in the file, so the page needs no network.

    Args:
        runs: Run folders.
        out: The page.
        vectors: Whether to add a map of item vectors. Each model is rebuilt for this map.
        data_path: Folder of the datasets, for ``vectors``.

    Raises:
        UserError: If a folder is not a finished run.
    """
    if not out.endswith((".html", ".htm")):
        raise UserError(f"--out: {out!r}: the name must end in .html")
    check_matplotlib()
    folders = [RunFolder.open(path) for path in dict.fromkeys(runs)]
    results = [run.read_results() for run in folders]
    parts = [_summary(results)]
    for run, result in zip(folders, results, strict=True):
        name = f"{result['model']} on {result['dataset']}, seed {result['seed']}"
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f"<p><code>{html.escape(str(run.path))}</code></p>")
        parts.append(_picture(curves_of(run), f"Learning curves of {name}"))
        if vectors:
            parts.append(_picture(vectors_of(run.path, data_path), f"Item vectors of {name}"))
        parts.append(_details(run, result))
    write_text(Path(out), _PAGE.format(title="Runs of recbole_siger", body="\n".join(parts)))
    print_line(f"{out}: {len(folders)} run{'s' if len(folders) > 1 else ''}")


def _summary(results: Sequence[dict[str, Any]]) -> str:
    """Make one table of test metrics per dataset and protocol, because only such numbers are comparable."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        name = f"protocol {result['protocol']} {result.get('protocol_id', '')}".strip()
        groups.setdefault((result["dataset"], name), []).append(result)
    parts = ["<p>Test of the best validation epoch.</p>"]
    if len(groups) > 1:
        parts.append("<p>Each dataset and each protocol has its own table.</p>")
    for (dataset, protocol), group in groups.items():
        parts.append(f"<h3>{html.escape(f'{dataset}, {protocol}')}</h3>{_summary_table(group)}")
    return "\n".join(parts)


def _summary_table(results: Sequence[dict[str, Any]]) -> str:
    shared = [name for name in results[0]["test"] if all(name in result["test"] for result in results)]
    rows = [
        [
            result["model"],
            str(result["seed"]),
            str(result["best_epoch"]),
            *(f"{result['test'][name]:.4f}" for name in shared),
        ]
        for result in results
    ]
    return _table(["Model", "Seed", "Best epoch", *map(metric_label, shared)], rows)


def _details(run: RunFolder, result: dict[str, Any]) -> str:
    names = list(result["test"])
    head = ["", *map(metric_label, names)]
    rows = [
        [phase, *(f"{result[phase][name]:.4f}" if name in result[phase] else "" for name in names)]
        for phase in ("valid", "test")
    ]
    facts = [
        ["Epochs", str(result["n_epochs"])],
        ["Seconds an epoch", f"{result['seconds_per_epoch']:.2f}"],
        ["Peak memory (MiB)", f"{result['peak_memory_mib']:.0f}"],
        ["Trained parameters", f"{result['n_parameters']:,}"],
        *([name, text] for name, text in result["versions"].items()),
    ]
    config = html.escape(run.file("config.yaml").read_text(encoding="utf-8"))
    return (
        f"{_table(head, rows)}"
        f"<details><summary>Cost and versions</summary>{_table(['', ''], facts)}</details>"
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(head, "th")}{body}</table></div>'


def _picture(figure: Any, text: str) -> str:
    data = base64.b64encode(svg_bytes(figure)).decode("ascii")
    return f'<p><img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}"></p>'
