"""Figure 1 of SIGER: how much of the co-occurrence the item graphs of features hold already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from recbole.utils import init_seed
from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.eisg import item_graphs
from recbole_siger.model.general_recommender.siger import SIGERParams
from recbole_siger.options.params import build_params
from recbole_siger.report.figures import FIGURES, check_matplotlib, draw_histograms, save_figure
from recbole_siger.report.tables import expand_names
from recbole_siger.training.settings import run_settings

__all__ = ["count_overlap", "overlap_of_dataset", "report_overlap"]


def report_overlap(
    dataset: str, values: Mapping[str, Any], files: Sequence[str] = (), out: Sequence[str] = ()
) -> None:
    """Print how many of an item's top co-occurring items are among its semantic neighbours, and draw it.

    Args:
        dataset: Dataset name.
        values: Options of SIGER and of the run, such as ``n_co_neighbors``.
        files: Configuration files.
        out: File names of the picture.

    Raises:
        UserError: For bad input.
    """
    paths = expand_names(out, FIGURES)
    if paths:
        check_matplotlib()
    config = Config("SIGER", dataset, files, command_line=dict(values))
    k, labels = config["n_co_neighbors"], ["semantic graph", "EISG"]
    panels = overlap_of_dataset(config)
    print(f"{dataset}: of the {k} items that co-occur most with an item, how many are neighbours of it")
    print(
        "items with a co-occurring item, by number found (%); the EISG takes all of them in, so it has them"
    )
    for name, series in panels.items():
        for label, counts in zip(labels, series, strict=True):
            share = torch.bincount(counts, minlength=k + 1) * 100 / max(len(counts), 1)
            cells = "  ".join(f"{n}: {value:5.1f}" for n, value in enumerate(share.tolist()))
            print(f"{name:12} {label:14} {cells}   mean {counts.double().mean():.2f}")
    for path in paths:
        drawn = {name: [counts.tolist() for counts in series] for name, series in panels.items()}
        save_figure(draw_histograms(drawn, labels, k + 1, f"of the top {k} co-occurring items, found"), path)


def overlap_of_dataset(config: Config) -> dict[str, list[Tensor]]:
    """Count the overlap for each modality: of the semantic graph, then of the EISG."""
    p = build_params(SIGERParams, config.final_config_dict, config.origin)
    with run_settings(config):
        init_seed(config.run.seed, config["reproducibility"])
        dataset = MultimodalDataset(config)
        train = split_and_load(config, dataset)[0]._dataset
    arguments = p.item_graph_arguments(dataset.user_num, dataset.item_num)
    cache = GraphCache(config.run.cache_dir)
    graphs = item_graphs(train.train_edges, dataset.item_features(), cache, **arguments)
    return {
        name: [count_overlap(one.co_graph, graph) for graph in (one.semantic, one.eisg)]
        for name, one in graphs.items()
    }


def count_overlap(co_graph: Tensor, graph: Tensor) -> Tensor:
    """Count, for each item with a co-occurring item, how many of its edges there are edges of ``graph`` too.

    Args:
        co_graph: Top-K co-occurrence graph, sparse COO, shape ``(I, I)``.
        graph: Another graph of the items, sparse COO, shape ``(I, I)``.

    Returns:
        Counts, int64, in the order of item ids; an item without an edge in ``co_graph`` is left out.

    Example:
        >>> co = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]).to_sparse()
        >>> count_overlap(co, torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]]).to_sparse())
        tensor([1, 0])
    """
    row, column = co_graph.coalesce().indices()
    found = torch.isin(row * len(co_graph) + column, _codes(graph))
    hits = torch.bincount(row[found], minlength=len(co_graph))
    return hits[torch.bincount(row, minlength=len(co_graph)) > 0]


def _codes(graph: Tensor) -> Tensor:
    row, column = graph.coalesce().indices()
    return row * len(graph) + column
