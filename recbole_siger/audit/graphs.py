"""Trace the edges of a model's graphs to training rows, or to features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.training.experiment import Experiment

__all__ = ["Finding", "graph_findings", "name_pair", "pairs_of"]

Verdict = Literal["PASS", "FAIL", "INFO"]
PARTS = ("train", "valid", "test")

OF_TORCH = vars(torch.nn.Module())
"""Attributes of every module."""

BLOCK = 4_000_000
"""Interactions that are looked at together while edges are traced, 50 MB; more if one edge has more."""


@dataclass(frozen=True)
class Finding:
    """One line of an audit; INFO is a fact and not a fault."""

    verdict: Verdict
    check: str
    text: str


def pairs_of(experiment: Experiment) -> dict[str, np.ndarray[Any, Any]]:
    """Return each part's interactions as keys ``user * n_items + item``, in file order."""
    found = {}
    for name, loader in zip(PARTS, experiment.loaders(), strict=True):
        split = loader._dataset
        users, items = (split.inter_feat[field].numpy() for field in (split.uid_field, split.iid_field))
        found[name] = users.astype(np.int64) * split.item_num + items
    return found


def name_pair(experiment: Experiment, key: int) -> str:
    """Return the raw tokens of a pair as text."""
    data = experiment.dataset
    user, item = divmod(int(key), data.item_num)
    users, items = (data.field2id_token[field] for field in (data.uid_field, data.iid_field))
    return f"user {str(users[user])!r}, item {str(items[item])!r}"


def _matrices(model: Any) -> Iterator[tuple[str, sp.coo_array]]:
    """Return every sparse matrix in a model, by name: attributes first, then entries of lists and dicts."""
    seen: set[int] = set()
    for name, value in [*_attributes(model), *_entries(model)]:
        value = getattr(value, "product", value)  # model/acceleration.py may have replaced the tensor
        matrix = _coo(value)
        if matrix is not None and id(value) not in seen:
            seen.add(id(value))
            yield name, matrix


def _attributes(model: Any) -> Iterator[tuple[str, Any]]:
    for prefix, module in model.named_modules():
        for key, value in [*vars(module).items(), *module._buffers.items(), *module._modules.items()]:
            if key not in OF_TORCH:
                yield f"{prefix}.{key}".strip("."), value


def _entries(model: Any) -> Iterator[tuple[str, Any]]:
    for name, value in _attributes(model):
        if isinstance(value, dict | list | tuple):
            for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
                yield f"{name}.{key}", entry


def _coo(value: Any) -> sp.coo_array | None:
    if isinstance(value, SparseMatrix):
        crow, col, val = (part.cpu().numpy() for part in (value.crow, value.col, value.val))
        return sp.csr_array((val, col, crow), shape=tuple(value.shape)).tocoo()
    if isinstance(value, torch.Tensor) and value.layout != torch.strided and value.dim() == 2:
        tensor = value.detach().cpu().to_sparse_coo().coalesce()
        return sp.coo_array(
            (tensor.values().numpy(), tuple(tensor.indices().numpy())), shape=tuple(tensor.shape)
        )
    return sp.coo_array(value) if sp.issparse(value) else None


def graph_findings(experiment: Experiment) -> Iterator[Finding]:
    """Trace every edge of every graph to training rows, or to features."""
    model, data = experiment.model, experiment.dataset
    n_users, n_items = data.user_num, data.item_num
    trained = np.unique(pairs_of(experiment)["train"])
    what = experiment.config["model"]
    if hasattr(model, "train_edges"):
        user, item = model.train_edges.cpu().numpy()
        yield _traced(experiment, f"{what}.train_edges", user * n_items + item, trained)
    n_found = 0
    content: dict[str, sp.coo_array] | None = None if hasattr(model, "raw_features") else {}
    found = dict(_matrices(model))
    item_graphs = [matrix for matrix in found.values() if matrix.shape == (n_items, n_items)]
    for name, matrix in found.items():
        n_found += 1
        if {name, name.partition(".")[0]} & set(getattr(model, "content_graphs", ())):
            text = f"{what}.{name}: {matrix.nnz} edges by content; the model declares that they are not rows"
            yield Finding("INFO", "graphs", text)
            continue
        row, col = (part.astype(np.int64) for part in matrix.nonzero())
        if n_users == n_items == matrix.shape[0] == matrix.shape[1]:
            text = (
                f"{what}.{name}: the numbers of users and items are equal, so the shape does not show what "
                "the graph connects"
            )
            yield Finding("INFO", "graphs", text)
        elif matrix.shape == (n_users, n_items):
            keys = row * n_items + col
            yield _scores(experiment, f"{what}.{name}", keys, trained, item_graphs) or _traced(
                experiment, f"{what}.{name}", keys, trained
            )
        elif matrix.shape == (n_users + n_items,) * 2:
            yield from _traced_adjacency(experiment, f"{what}.{name}", row, col, trained)
        elif matrix.shape == (n_items, n_items):
            content = _content_graphs(experiment) if content is None else content
            yield _traced_items(experiment, f"{what}.{name}", row, col, content.get(name))
        else:
            yield Finding(
                "INFO", "graphs", f"{what}.{name} has shape {matrix.shape}; its edges are not traced"
            )
    if not n_found:
        yield Finding("INFO", "graphs", f"{what} has no sparse matrix")


def _traced(experiment: Experiment, name: str, keys: Any, trained: Any) -> Finding:
    """Compare pairs of users and items with the training rows."""
    foreign = np.setdiff1d(keys, trained)
    if not len(foreign):
        return Finding(
            "PASS", "graphs", f"{name}: all {len(np.unique(keys))} user-item edges are training rows"
        )
    return Finding(
        "FAIL",
        "graphs",
        f"{name}: {len(foreign)} edges are not training rows, such as {_culprit(experiment, foreign)}",
    )


def _scores(
    experiment: Experiment, name: str, keys: Any, trained: Any, item_graphs: list[sp.coo_array]
) -> Finding | None:
    """Recognise a table of scores, such as ItemKNN's ``pred_mat``: training rows times an item graph.

    Return None for a graph. A leaked graph adds rows of validation or test only, whereas a table of scores
    has pairs that are in no part, and an item graph leads to all its pairs.
    """
    foreign = np.setdiff1d(keys, trained)
    if not len(np.setdiff1d(foreign, np.concatenate(list(pairs_of(experiment).values())))):
        return None
    shape = experiment.dataset.user_num, experiment.dataset.item_num
    table = sp.csr_array((np.ones(len(trained)), divmod(trained, shape[1])), shape=shape)
    for graph in item_graphs:
        edges = graph.nonzero()
        steps = sp.csr_array((np.ones(len(edges[0])), edges), shape=graph.shape)
        reached = (table @ steps).tocoo()
        if np.isin(foreign, reached.row.astype(np.int64) * shape[1] + reached.col).all():
            text = f"{name}: {len(np.unique(keys))} scores of training rows times an item graph; no edges"
            return Finding("INFO", "graphs", text)
    return None


def _culprit(experiment: Experiment, keys: Any) -> str:
    """Return the first of some pairs and its part; a pair of the test part has priority."""
    pairs = pairs_of(experiment)
    for part in ("test", "valid"):
        found = np.intersect1d(keys, pairs[part])
        if len(found):
            return f"{name_pair(experiment, found[0])}, which is in {part}"
    return f"{name_pair(experiment, keys[0])}, which is in no part"


def _traced_adjacency(
    experiment: Experiment, name: str, row: Any, col: Any, trained: Any
) -> Iterator[Finding]:
    n_users, n_items = experiment.dataset.user_num, experiment.dataset.item_num
    down, across = (row < n_users) & (col >= n_users), (row >= n_users) & (col < n_users)
    keys = np.concatenate(
        (row[down] * n_items + col[down] - n_users, col[across] * n_items + row[across] - n_users)
    )
    yield _traced(experiment, name, keys, trained)
    others = int((~down & ~across & (row != col)).sum())
    if others:
        yield Finding(
            "INFO", "graphs", f"{name}: {others} edges between two users or two items are not traced"
        )


def _traced_items(
    experiment: Experiment, name: str, row: Any, col: Any, content: sp.coo_array | None
) -> Finding:
    """Explain each item-item edge by a user who trained on both items, or by content."""
    n_items, pairs = experiment.dataset.item_num, pairs_of(experiment)
    keys = np.unique((row * n_items + col)[row != col])
    by_content = np.empty(0, dtype=np.int64)
    if content is not None:
        first, second = (part.astype(np.int64) for part in content.nonzero())
        by_content = first * n_items + second
    left = _unshared(np.setdiff1d(keys, by_content), pairs["train"], n_items)
    n_explained = len(keys) - len(left)
    if not len(left):
        text = f"all {len(keys)} item-item edges come from training rows or features"
        return Finding("PASS", "graphs", f"{name}: {text}")
    seen = np.setdiff1d(left, _unshared(left, np.concatenate(list(pairs.values())), n_items))
    tokens = experiment.dataset.field2id_token[experiment.dataset.iid_field]
    if len(seen) == len(left):
        a, b = divmod(int(seen[0]), n_items)
        edge = f"{str(tokens[a])!r} to {str(tokens[b])!r} ({_together(experiment, a, b)})"
        text = f"{len(seen)} edges come from evaluation rows, such as {edge}"
        return Finding("FAIL", "graphs", f"{name}: {text}")
    text = f"{n_explained} of {len(keys)} item-item edges come from training rows or features"
    return Finding(
        "INFO", "graphs", f"{name}: {text}; the other edges are of another kind and are not traced"
    )


def _unshared(edges: Any, keys: Any, n_items: int) -> Any:
    """Return the item-item edges whose two items no user has both, in bounded memory.

    The pairs of items that users share can be a thousand times as many as the interactions, so each edge is
    looked up by itself.

    Args:
        edges: ``item * n_items + item``.
        keys: Interactions, ``user * n_items + item``.
        n_items: Number of items, the padding included.
    """
    user, item = np.divmod(np.unique(keys), n_items)
    table = sp.csr_array((np.ones(len(item), dtype=np.int32), (item, user)), shape=(n_items, user.max() + 1))
    first, second = np.divmod(edges, n_items)
    degree = np.diff(table.indptr).astype(np.int64)
    cuts = np.flatnonzero(np.diff(np.cumsum(degree[first] + degree[second]) // BLOCK)) + 1
    parts = zip(np.split(first, cuts), np.split(second, cuts), strict=True)
    return edges[np.concatenate([(table[a] * table[b]).sum(axis=1) == 0 for a, b in parts])]


def _together(experiment: Experiment, a: int, b: int) -> str:
    """Return the evaluation row through which a user has both items."""
    n_items, pairs = experiment.dataset.item_num, pairs_of(experiment)
    everything = np.concatenate(list(pairs.values()))
    users = np.intersect1d(*(everything[everything % n_items == one] // n_items for one in (a, b)))
    keys = np.concatenate([users * n_items + one for one in (a, b)])
    return _culprit(experiment, np.setdiff1d(keys, pairs["train"]))


def _content_graphs(experiment: Experiment) -> dict[str, sp.coo_array]:
    """Build the model on one training row, so that its item graphs contain edges from features only."""
    train = experiment.train_data._dataset
    random = torch.random.get_rng_state()
    alone = type(experiment.model)(experiment.config, train.copy(train.inter_feat[[0]]))
    torch.random.set_rng_state(random)
    return dict(_matrices(alone))
