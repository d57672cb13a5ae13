"""Write what a finished run needs to recommend: final embeddings, seen items, item content and item texts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.registry import short_name
from recbole_siger.runs.content import Features, StoredGraph, write_graphs
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.item_texts import copy_item_texts, find_item_table
from recbole_siger.runs.scoring import ITEMS_FILE, SEEN_FILE, Scoring, pack_lists

__all__ = ["scoring_of", "write_use_files"]

_log = logging.getLogger(__name__)

N_CHECKED = 64
"""Users whose scores are compared before anything is stored."""
MAX_MATRIX_BYTES = 2**30
TOLERANCE = 1e-4


@torch.no_grad()
def write_use_files(
    run: RunFolder, config: Config, model: Any, train: Any, valid: Any, tokens: list[str]
) -> None:
    """Write the files of :mod:`recbole_siger.runs.scoring`; a model without such files gets one log line.

    Args:
        run: The run folder.
        config: Its configuration; ``save_embeddings`` False writes nothing.
        model: The model at its best epoch.
        train: The training split.
        valid: The validation split.
        tokens: Raw tokens of the items, padding first.
    """
    if not config.run.save_embeddings:
        return
    model.eval()
    trained, validated = _lists(train), _lists(valid)
    scoring = scoring_of(model, short_name(config["model"]), trained)
    if scoring is None:
        _log.info(
            "%s: scores are no inner products of stored vectors; no embeddings are stored", config["model"]
        )
        return
    run.write_tensors(SEEN_FILE, {**pack_lists("train", trained), **pack_lists("valid", validated)})
    _write_texts(run, config, tokens)
    if getattr(getattr(model, "graph_cache", None), "requests", None):
        write_graphs(run, _graphs(model))
    if getattr(model, "scores_cold_items", False) and config.run.save_features and config.run.saved:
        Features(model.raw_features, model.raw_user_features).write(run)
    scoring.write(run)


def _graphs(model: Any) -> list[StoredGraph]:
    """Return the graphs that a model of this package asked its cache for."""
    graphs = []
    for request in model.graph_cache.requests:
        labels = [m for m, x in model.raw_features.items() if any(x is y for y in request.tensors.values())]
        same = len(labels) == 1 and all(x is model.raw_features[labels[0]] for x in request.tensors.values())
        label = labels[0] if same else str(request.arguments.get("modality", ""))
        graphs.append(StoredGraph(request.kind, label, model.graph_cache.again(request)))
    return graphs


def _lists(split: Any) -> ItemLists:
    users, items = (split.inter_feat[field].numpy() for field in (split.uid_field, split.iid_field))
    return ItemLists.from_pairs(users, items, split.user_num, split.item_num)


def _write_texts(run: RunFolder, config: Config, tokens: list[str]) -> None:
    found = find_item_table(Path(config["feature_path"]), config["dataset"], config["ITEM_ID_FIELD"])
    if found is None:
        return
    try:
        n_texts = copy_item_texts(*found, tokens, run.file(ITEMS_FILE))
    except UserError as error:  # texts are optional; a finished training is not lost for them
        _log.warning("%s; the run folder has no item texts", error)
    else:
        _log.debug("texts of %d of %d items: %s", n_texts, len(tokens) - 1, run.file(ITEMS_FILE))


# ---- what the scores of a model are made of


def scoring_of(model: Any, name: str, trained: ItemLists) -> Scoring | None:
    """Find tensors that give the scores of a model, and check them on a sample of users.

    Args:
        model: A general recommender in evaluation mode: ours or RecBole's.
        name: Its name.
        trained: The training items of each user.

    Returns:
        The first rule that agrees with ``full_sort_predict`` for :data:`N_CHECKED` users and all items; None
        if no rule agrees.
    """
    users = torch.linspace(1, model.n_users - 1, min(N_CHECKED, model.n_users - 1)).round().long().unique()
    try:
        scores = _full_scores(model, users)
    except NotImplementedError:
        return None
    for scoring in _candidates(model, name):
        if _agrees(scoring, users, scores, trained):
            return scoring
    return None


def _full_scores(model: Any, users: Tensor) -> Tensor:
    """Let the model score all items for some users: ``(n, n_items)`` on the CPU."""
    batch = Interaction({model.USER_ID: users}).to(model.device)
    scores: Tensor = model.full_sort_predict(batch)
    return scores.detach().cpu().float().reshape(len(users), model.n_items)


def _candidates(model: Any, name: str) -> Iterator[Scoring]:
    """Yield what may give the scores, most likely first."""
    sizes = model.n_users, model.n_items
    for user, item in _table_pairs(model):
        fits = user.dim() == 2 and (len(user), len(item)) == sizes and user.shape[1:] == item.shape[1:]
        if fits:
            yield Scoring("embeddings", name, {"user": user, "item": item}, *sizes)
    for attribute in ("w", "item_similarity"):
        if (matrix := getattr(model, attribute, None)) is not None and matrix.shape == (sizes[1],) * 2:
            yield Scoring("item_item", name, _matrix_tensors(matrix), *sizes)
    count, greatest = getattr(model, "item_cnt", None), getattr(model, "max_cnt", None)  # of Pop
    if count is not None and greatest is not None:
        share = (count / greatest).flatten().float().cpu()
        yield Scoring("item_score", name, {"score": share}, *sizes)


def _table_pairs(model: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of tables of users and items on the CPU."""
    pairs: list[Any] = []
    if hasattr(model, "final_embeddings"):
        pairs.append(model.final_embeddings())
    # RecBole's graph models keep here what full_sort_predict has computed.
    pairs.append((getattr(model, "restore_user_e", None), getattr(model, "restore_item_e", None)))
    pairs.append((getattr(model, "user_embedding", None), getattr(model, "item_embedding", None)))
    if not inspect.signature(model.forward).parameters and not hasattr(model, "final_embeddings"):
        pairs.append(model.forward())
    for pair in pairs:
        if isinstance(pair, tuple) and len(pair) >= 2:
            tables = [x.weight if isinstance(x, nn.Embedding) else x for x in pair[:2]]
            if all(isinstance(x, Tensor) for x in tables):
                user, item = (x.detach().cpu().float().contiguous() for x in tables)
                yield user, item


def _matrix_tensors(matrix: Any) -> dict[str, Tensor]:
    """Return an item-item matrix as tensors: by rows if it is sparse or too large, else whole."""
    if not sp.issparse(matrix) and matrix.size * 4 <= MAX_MATRIX_BYTES:
        return {"matrix": torch.from_numpy(np.ascontiguousarray(np.asarray(matrix), dtype=np.float32))}
    rows = sp.csr_matrix(matrix)
    rows.sum_duplicates()
    return {
        "indptr": torch.from_numpy(rows.indptr.astype(np.int64)),
        "columns": torch.from_numpy(rows.indices.astype(np.int32)),
        "values": torch.from_numpy(rows.data.astype(np.float32)),
    }


def _agrees(scoring: Scoring, users: Tensor, scores: Tensor, trained: ItemLists) -> bool:
    """Compare the scores of a rule with those of the model, all items but the padding item.

    A rule with a number that is not finite agrees with nothing.
    """
    if not scoring.is_finite:
        return False
    found = scoring.scores(users, trained)[:, 1:]
    scale = max(float(scores[:, 1:].abs().amax()), 1e-6)
    return bool(((found - scores[:, 1:]).abs() <= TOLERANCE * scale).all())
