"""A figure of item graphs beside the statement of the paper: SIGER's Figure 1. No run is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_siger.common.files import write_text
from recbole_siger.common.terminal import print_line
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.report.figures import check_matplotlib, draw_histograms, save_figure
from recbole_siger.report.overlap import overlap_of_dataset
from recbole_siger.reproduce.paper import PaperTable
from recbole_siger.reproduce.plan import Request
from recbole_siger.reproduce.writing import (
    Section,
    as_latex,
    as_markdown,
    notes_on_options,
    print_sections,
    title_of,
)

__all__ = ["overlap_section", "reproduce_overlap", "shares"]

_GRAPHS = ("semantic graph", "EISG")
_FEW = 1
"""The statement of Figure 1: most items find at most so many of their co-occurring items."""


def reproduce_overlap(
    table: PaperTable, dataset: str, request: Request, folder: Path, *, dry_run: bool
) -> int:
    """Count how many of an item's top co-occurring items the item graphs hold, and write the figure.

    Args:
        table: What the paper states.
        dataset: A dataset of the table.
        request: What the command line asks for.
        folder: Folder of the results.
        dry_run: Whether nothing is computed.

    Returns:
        0.

    Raises:
        UserError: For bad input.
    """
    for option in ("models", "seeds", "runs", "jobs", "address"):
        if getattr(request, option):
            raise UserError(
                f"command line: --{option}: {table.name} counts edges of item graphs and needs no run; leave "
                "it out"
            )
    config = Config("SIGER", dataset, request.config_files, dict(table.options), request.options)
    if dry_run:
        print_line(f"{table.name} on {dataset}: no run is needed; the item graphs are built and counted")
        return 0
    panels, k = overlap_of_dataset(config), int(config["n_co_neighbors"])
    note = "" if request.original_features else table.datasets[dataset].note
    found = {name: [shares(counts, k) for counts in series] for name, series in panels.items()}
    options = tuple(notes_on_options(request.changed, request.file_values))
    section = overlap_section(table, dataset, note, found)
    sections = [replace(section, notes=(*section.notes, *options))]
    texts = {
        "md": as_markdown(sections),
        "tex": as_latex(sections),
        "json": _as_json(table, dataset, note, found, {**request.file_values, **request.changed}),
    }
    written = [folder / f"{table.name}.{suffix}" for suffix in texts]
    for path, text in zip(written, texts.values(), strict=True):
        write_text(path, text)
    written += _draw(table, panels, k, folder)
    print_sections(sections, texts["md"])
    print_line(f"written: {', '.join(map(str, written))}", sys.stderr)
    return 0


def _as_json(
    table: PaperTable,
    dataset: str,
    note: str,
    found: Mapping[str, Sequence[Sequence[float]]],
    options: Mapping[str, Any],
) -> str:
    content = {
        "schema": 1,
        "name": table.name,
        "paper": table.paper,
        "place": table.place,
        "dataset": dataset,
        "note": note,
        "options": dict(options),
        "shares": {name: dict(zip(_GRAPHS, series, strict=True)) for name, series in found.items()},
        "statement_holds": {name: few_of(series[0]) > 50.0 for name, series in found.items()},
    }
    return json.dumps(content, indent=2) + "\n"


def shares(counts: Tensor, k: int) -> list[float]:
    """Return the share of items by number of co-occurring items found, in percent.

    >>> shares(torch.tensor([0, 0, 1, 3]), 3)
    [50.0, 25.0, 0.0, 25.0]
    """
    found = torch.bincount(counts, minlength=k + 1).double() * 100 / max(len(counts), 1)
    return [float(share) for share in found]


def few_of(shown: Sequence[float]) -> float:
    """Return the share of items that find none or one, in percent."""
    return sum(shown[: _FEW + 1])


def overlap_section(
    table: PaperTable, dataset: str, note: str, found: Mapping[str, Sequence[Sequence[float]]]
) -> Section:
    """Return the table of a figure.

    Args:
        table: What the paper states.
        dataset: Dataset name.
        note: Nature of the data; may be empty.
        found: ``{modality: [shares in the semantic graph, shares in the EISG]}``.
    """
    n = max(len(shown) for series in found.values() for shown in series)
    header = ("Modality", "Graph", *(f"{number} found" for number in range(n)), "0 or 1", "Statement")
    rows = []
    for name, series in found.items():
        for graph, shown in zip(_GRAPHS, series, strict=True):
            few = few_of(shown)
            verdict = ("holds" if few > 50.0 else "does not hold") if graph == _GRAPHS[0] else ""
            rows.append((name, graph, *(f"{share:.1f} %" for share in shown), f"{few:.1f} %", verdict))
    notes = [f"Paper: {table.paper}."]
    notes += [f"Data: {note}."] if note else []
    notes.append(
        "Shares of the items that have a co-occurring item, by how many of their top co-occurring items are "
        "neighbours in a graph. Statement of the paper: most items find none or one in the semantic graph. "
        "The EISG contains all of them by construction; an item with fewer co-occurring items finds fewer."
    )
    return Section(title_of(table, dataset, note), header, tuple(rows), (*notes, *table.remarks))


def _draw(table: PaperTable, panels: Mapping[str, Sequence[Any]], k: int, folder: Path) -> list[Path]:
    try:
        check_matplotlib()
    except UserError as error:
        print_line(f"no picture: {error}", sys.stderr)
        return []
    drawn = {name: [counts.tolist() for counts in series] for name, series in panels.items()}
    figure = draw_histograms(drawn, _GRAPHS, k + 1, f"of the top {k} co-occurring items, found")
    paths = [folder / f"{table.name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        save_figure(figure, path)
    return paths
