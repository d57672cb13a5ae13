"""Nearest rows by a navigable small-world graph (HNSW, arXiv 1603.09320), for very many rows.

Memory grows linearly with the number of rows, and time grows almost linearly. The rows that are found are
ranked by exact cosines. The share of rows that are missed is measured on a sample.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.graph.cosine import UnitRows
from recbole_siger.graph.ordering import first_k_per_row

__all__ = ["nearest"]

logger = logging.getLogger(__name__)

N_LINKS, BUILD_BEAM = 32, 80
# The search is widened until the sample's recall is reached.
BEAMS, ENOUGH = (64, 128, 256, 512, 1024), 0.995
N_SAMPLE, BATCH = 256, 4096


def nearest(rows: UnitRows, k: int) -> tuple[Tensor, Tensor]:
    """Find approximately the ``k`` nearest other rows of each row.

    Logs the share of the true neighbours that was found, for up to 256 evenly spaced rows; logs a warning
    below .99. One thread always gives the same result; with more threads, faiss builds in no fixed order.

    Returns:
        Pairs (row, neighbour), ordered in each row, ``(2, n)``; their cosines in units of ``STEP``, ``(n,)``.

    Raises:
        UserError: If faiss is missing.
    """
    index = _build(rows)
    sample = torch.linspace(0, len(rows) - 1, min(N_SAMPLE, len(rows))).long().unique()
    truth = _kth_cosine(rows, sample, k)
    for beam in BEAMS:
        index.hnsw.efSearch = max(beam, 4 * k)
        pairs, step = _search(index, rows, sample, k)
        recall = float((step >= truth[torch.searchsorted(sample, pairs[0])]).sum() / (len(sample) * k))
        if recall >= ENOUGH:
            break
    level = logging.INFO if recall >= 0.99 else logging.WARNING
    logger.log(
        level, "knn_method=ann: recall@%d %.4f on %d of %d items, beam %d", k, recall, len(sample), len(rows),
        index.hnsw.efSearch,
    )  # fmt: skip
    everything = torch.arange(len(rows))
    parts = [_search(index, rows, some, k) for some in everything.split(BATCH)]
    device = rows.index.device
    return torch.cat([p for p, _ in parts], dim=1).to(device), torch.cat([s for _, s in parts]).to(device)


def _build(rows: UnitRows) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "knn_method='ann': faiss is missing; pip install 'recbole-siger[ann]', or knn_method=exact"
        ) from error
    # For unit vectors, the order by distance equals the order by cosine.
    index = faiss.IndexHNSWFlat(rows.features.shape[1], N_LINKS)
    index.hnsw.efConstruction = BUILD_BEAM
    for start in range(0, len(rows), BATCH):
        index.add(_unit(rows, start, min(start + BATCH, len(rows))).numpy())
    return index


def _unit(rows: UnitRows, start: int, stop: int) -> Tensor:
    """Return a few rows scaled to length 1, float32, on the CPU."""
    empty = torch.empty((stop - start, rows.features.shape[1]), device=rows.index.device)
    return rows.unit(start, stop, empty).cpu()


def _kth_cosine(rows: UnitRows, sample: Tensor, k: int) -> Tensor:
    """Return the cosine of each sampled row to its ``k``-th nearest row, ``(S,)``, as ``rows.cosines`` does.

    With fewer than ``k`` other rows, the function returns the cosine of the last of them.
    """
    picked = rows[sample.to(rows.index.device)]
    query = _unit(picked, 0, len(picked))
    best = torch.full((len(query), 0), 0.0)
    place = torch.empty((len(query), 0), dtype=torch.int64)
    n_kept = min(4 * k + 16, len(rows) - 1)
    for start in range(0, len(rows), BATCH):
        score = query @ _unit(rows, start, min(start + BATCH, len(rows))).T
        column = torch.arange(start, start + score.shape[1]).expand_as(score)
        score = score.masked_fill(column == sample[:, None], -2)
        best, chosen = torch.cat((best, score), dim=1).topk(min(n_kept, best.shape[1] + score.shape[1]))
        place = torch.cat((place, column), dim=1).gather(1, chosen)
    step = rows.cosines(sample.repeat_interleave(place.shape[1]).to(rows.index.device),
                        place.flatten().to(rows.index.device)).cpu().view_as(place)  # fmt: skip
    return step.topk(min(k, place.shape[1])).values[:, -1]


def _search(index: Any, rows: UnitRows, wanted: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` best rows that the index finds for ``wanted`` rows, on the CPU, as :func:`nearest`."""
    device = rows.index.device
    picked = rows[wanted.to(device)]
    found = torch.from_numpy(index.search(_unit(picked, 0, len(picked)).numpy(), 2 * k + 1)[1])
    row, column = wanted.repeat_interleave(found.shape[1]), found.flatten()
    kept = (column >= 0) & (column != row)
    row, column = row[kept], column[kept]
    step = rows.cosines(row.to(device), column.to(device)).cpu()
    best = first_k_per_row(row, k, -step, column)
    return torch.stack((row[best], column[best])), step[best]
