from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.user_item import draw_edges, interaction_matrix, user_item_adjacency

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


def test_draws_are_in_proportion_to_the_weights() -> None:
    """The weights 1, 2 and 4 of one draw; of two draws, by the probabilities of draws without replacement."""
    weight, generator = torch.tensor([1.0, 2.0, 4.0]), torch.Generator().manual_seed(3)
    counts, left_out = torch.zeros(3), torch.zeros(3)
    for _ in range(4001):
        counts[draw_edges(weight, 1, generator)] += 1
        kept = draw_edges(weight, 2, generator)
        assert len(set(kept.tolist())) == 2
        left_out[3 - int(kept.sum())] += 1
    assert (counts / 4001 - weight / 7).abs().max() < 0.03
    last = torch.tensor([2 / 7 * 4 / 5 + 4 / 7 * 2 / 3, 1 / 7 * 4 / 6 + 4 / 7 * 1 / 3, 1 / 7 / 3 + 2 / 7 / 5])
    assert (left_out / 4001 - last).abs().max() < 0.03


def test_the_generator_decides_the_draw() -> None:
    weight = torch.arange(1.0, 102.0)
    one, other = (draw_edges(weight, 53, torch.Generator().manual_seed(seed)) for seed in (7, 7))
    assert torch.equal(one, other)
    torch.manual_seed(7)
    assert torch.equal(draw_edges(weight, 53), one)
    assert one.dtype == torch.int64


@pytest.mark.parametrize("n_kept", [-1, 6])
def test_the_number_of_drawn_edges_is_checked(n_kept: int) -> None:
    assert draw_edges(torch.ones(5), 0).tolist() == []
    assert sorted(draw_edges(torch.ones(5), 5).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        draw_edges(torch.ones(5), n_kept)
    assert str(error.value) == f"n_kept must be in [0, 5], got {n_kept}"
