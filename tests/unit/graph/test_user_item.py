from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.user_item import interaction_matrix, user_item_adjacency

EDGES = torch.tensor([[3, 1, 3, 3], [2, 1, 2, 4]])


def test_duplicates_count_once_and_order_does_not_matter():
    matrix = interaction_matrix(EDGES, 5, 7)
    assert matrix.is_coalesced()
    assert matrix.dtype == torch.float32
    assert matrix.indices().tolist() == [[1, 3, 3], [1, 2, 4]]
    assert matrix.values().tolist() == [1, 1, 1]
    assert torch.equal(interaction_matrix(EDGES.flip(1), 5, 7).to_dense(), matrix.to_dense())


def test_adjacency_is_symmetric_and_leaves_padding_alone():
    adjacency = user_item_adjacency(EDGES, 5, 7).to_dense()
    assert adjacency.shape == (12, 12)
    assert torch.equal(adjacency, adjacency.T)
    assert adjacency[[0, 5]].sum() == 0
    assert adjacency[3, 5 + 4] == 1


def test_self_loops_are_for_all_nodes_but_padding():
    plain, loops = (user_item_adjacency(EDGES, 5, 7, self_loops=x).to_dense() for x in (False, True))
    expected = torch.eye(12)
    expected[0, 0] = expected[5, 5] = 0
    assert torch.equal(loops - plain, expected)


def test_no_edges():
    assert user_item_adjacency(torch.zeros(2, 0, dtype=torch.int64), 3, 2)._nnz() == 0


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.tensor([[0, 5], [1, 1]]), r"user id 5 is outside \[0, 5\)"),
        (torch.tensor([[0, 4], [1, -2]]), r"item id -2 is outside \[0, 7\)"),
        (torch.tensor([[0, 4, 1]]), r"shape \(2, E\), got \(1, 3\)"),
        (torch.tensor([[0.0], [1.0]]), r"int64, got torch\.float32"),
    ],
)
def test_refuses_bad_edges(edges, message):
    with pytest.raises(ValueError, match=message):
        interaction_matrix(edges, 5, 7)
