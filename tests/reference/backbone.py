"""LightGCN and SGL as RLMRec's authors run them, as loops in NumPy float64, apart from the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.model.backbone import Backbone
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, make_experiment, make_toy, start_epoch
from tests.reference import twins

Array = np.ndarray


def propagated(graph: Array, x: Array, n_layers: int, layer_sum: str) -> tuple[Array, Array]:
    """The sum or the mean of layers 0 to L, users and items apart."""
    layer, total = x, x
    for _ in range(n_layers):
        layer = twins.product(graph, layer)
        total = total + layer
    total = total / (n_layers + 1) if layer_sum == "mean" else total
    return total[:N_USERS], total[N_USERS:]


def contrast(query: Array, key: Array, rows: Sequence[int], temperature: float) -> float:
    """NCE(Q -> K; r) with all rows but the padding as keys; a repeated row counts as often as it occurs."""
    return twins.info_nce(query[list(rows)], key[1:], temperature, np.array(rows) - 1)


def squares(experiment: Experiment) -> float:
    """The squares of all parameters."""
    return sum(float((p.detach().double() ** 2).sum()) for p in experiment.model.parameters())


def ranking(final: tuple[Array, Array], users: Array, pos: Array, neg: Array) -> float:
    """BPR, as a mean."""
    user, item = final
    return twins.bpr((user[users] * item[pos]).sum(1), (user[users] * item[neg]).sum(1))


def dense(graph: Any) -> Array:
    """A SparseMatrix or a ValuedMatrix as a table, entry by entry."""
    table, matrix = np.zeros(graph.shape), graph.pair()[0]
    for row in range(graph.shape[0]):
        for place in range(int(matrix.crow[row]), int(matrix.crow[row + 1])):
            table[row, int(matrix.col[place])] += float(matrix.val[place])
    return table


def whole_graph(experiment: Experiment) -> Array:
    """A, from the training rows."""
    edges = experiment.train_data._dataset.train_edges.numpy()
    return twins.normalized(twins.bipartite_adjacency(twins.interactions(edges, N_USERS, N_ITEMS)))


def scrambled(folder: Any, model: str, toy: Any = None, **options: Any) -> Experiment:
    """Build a model with large random parameters, and begin an epoch."""
    experiment = make_experiment(folder, model, toy or make_toy(("image", "text")), **options)
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.normal_(std=0.4, generator=generator)
    start_epoch(experiment)
    return experiment


def drawn_graphs(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """Return a list into which every thinned graph is written, as a table."""
    drawn: list[Array] = []
    thin = Backbone.thin

    def recorded(self: Backbone, generator: torch.Generator) -> Any:
        graph = thin(self, generator)
        drawn.append(dense(graph))
        return graph

    monkeypatch.setattr(Backbone, "thin", recorded)
    return drawn


def a_batch(experiment: Experiment) -> tuple[dict[str, torch.Tensor], Array, Array, Array]:
    """Rows with repeated ids, a user without training rows, and an item without a text."""
    user, item = unprofiled(experiment)
    users, pos, neg = [3, 1, 3, user, 7], [5, item, 5, 2, 11], [9, item, 8, 8, 10]
    keys = ("user_id", "item_id", "neg_item_id")
    batch = {key: torch.tensor(ids) for key, ids in zip(keys, (users, pos, neg), strict=True)}
    return batch, np.array(users), np.array(pos), np.array(neg)


def unprofiled(experiment: Experiment) -> tuple[int, int]:
    """The user without training rows, and the item without a text."""
    data = experiment.dataset
    return data.user_tokens.index(f"u{N_USERS - 2:02}"), data.item_tokens.index("i05")


def mapped(model: Any, x: Array) -> Array:
    """Linear, leaky ReLU, linear: one row at a time."""
    (w1, b1), (w2, b2) = (
        [p.detach().double().numpy() for p in (layer.weight, layer.bias)] for layer in (model[0], model[2])
    )
    hidden = twins.linear(x, w1, b1)
    return twins.linear(np.where(hidden > 0, hidden, 0.01 * hidden), w2, b2)
