"""Edges between items are traced to users in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from recbole_siger.audit import graphs
from recbole_siger.model.propagation import SparseMatrix


def test_graphs_in_lists_and_dicts_are_found() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one, two, three = (torch.eye(n).to_sparse() for n in (2, 3, 4))
            self.shown = {"first": SparseMatrix(one), "again": SparseMatrix(two)}
            self.graphs = torch.nn.ModuleDict({"text": self.shown["first"]})
            self.drawn = [two, three]
            self.sizes = (5, [three])

    found = {name: matrix.shape[0] for name, matrix in graphs._matrices(Model())}
    assert found == {"graphs.text": 2, "shown.again": 3, "drawn.0": 3, "drawn.1": 4}


@pytest.mark.parametrize("block", [1, 7, graphs.BLOCK])
def test_edges_without_a_common_user(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "BLOCK", block)
    random = np.random.default_rng(3)
    table = random.random((9, 12)) < 0.2
    table[:, 5] = False  # an item without a user
    n_items = table.shape[1]
    keys = np.concatenate([np.flatnonzero(table)] * 2)  # repeated rows
    edges = np.flatnonzero(random.random((n_items, n_items)) < 0.6)
    shared = table.astype(int).T @ table.astype(int)
    expected = [edge for edge in edges if not shared[edge // n_items, edge % n_items]]
    assert 0 < len(expected) < len(edges)
    assert graphs._unshared(edges, keys, n_items).tolist() == expected
    assert graphs._unshared(edges[:0], keys, n_items).tolist() == []


def test_memory_does_not_grow_with_the_pairs_that_users_share() -> None:
    n_users, n_items = 40, 3000
    keys = np.arange(n_users * n_items)  # all items of every user: 9 million pairs, 144 MB as keys and counts
    edges = np.arange(0, n_items * n_items, 2999)
    tracemalloc.start()
    left = graphs._unshared(edges, keys, n_items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert left.tolist() == []
    assert peak < 40e6
