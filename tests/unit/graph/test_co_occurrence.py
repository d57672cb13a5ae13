from __future__ import annotations

import logging

import pytest
import torch

from recbole_siger.common import progress
from recbole_siger.graph import co_occurrence
from recbole_siger.graph.co_occurrence import co_occurrence_graph

N_USERS, N_ITEMS = 41, 31


def random_edges(n_edges: int = 331) -> torch.Tensor:
    """Ids from 1 on; a few items are far more popular than the rest."""
    generator = torch.Generator().manual_seed(7)
    user = torch.randint(1, N_USERS, (n_edges,), generator=generator)
    item = 1 + ((N_ITEMS - 1) * torch.rand(n_edges, generator=generator) ** 2).long()
    return torch.stack((user, item))


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.indices(), right.indices()) and torch.equal(left.values(), right.values())


@pytest.mark.parametrize("tie_break", ["cosine", "popularity", "id"])
@pytest.mark.parametrize("max_pairs", [1, 10, 500])
def test_max_pairs_changes_nothing(max_pairs, tie_break):
    edges = random_edges()
    whole = co_occurrence_graph(edges, N_USERS, N_ITEMS, 5, tie_break=tie_break)
    cut = co_occurrence_graph(edges, N_USERS, N_ITEMS, 5, tie_break=tie_break, max_pairs=max_pairs)
    assert whole._nnz() > 100
    assert same(whole, cut)


def test_neither_order_nor_duplicates_of_edges_matter():
    edges = random_edges()
    again = torch.cat((edges.flip(1), edges[:, :50]), dim=1)
    assert same(
        co_occurrence_graph(edges, N_USERS, N_ITEMS, 5), co_occurrence_graph(again, N_USERS, N_ITEMS, 5)
    )


def test_padding_diagonal_and_row_length():
    graph = co_occurrence_graph(random_edges(), N_USERS, N_ITEMS, 3)
    row, col = graph.indices()
    assert graph.is_coalesced()
    assert (row != col).all()
    assert (graph.indices() > 0).all()
    assert torch.bincount(row).max() == 3
    assert graph.values().min() >= 0.5
    assert graph.values().max() < 1


def test_last_resort_is_the_lower_id():
    """One basket: every pair ties in count and popularity."""
    edges = torch.stack((torch.zeros(5, dtype=torch.int64), torch.arange(1, 6)))
    graph = co_occurrence_graph(edges, 1, 7, k=2)
    assert graph.indices()[1].tolist() == [2, 3, 1, 3, 1, 2, 1, 2, 1, 2]


def test_min_count_leaves_out_rare_pairs():
    edges = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]])
    assert co_occurrence_graph(edges, 2, 3, 2, min_count=2).indices().tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("edges", [[[], []], [[0, 1, 2], [1, 2, 3]]])
def test_no_pairs(edges):
    graph = co_occurrence_graph(torch.tensor(edges, dtype=torch.int64), 3, 5, 2)
    assert graph._nnz() == 0
    assert graph.shape == (5, 5)
    assert graph.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 1, "min_count": -3}, "min_count must be at least 1, got -3"),
        ({"k": 1, "max_pairs": 0}, "max_pairs must be at least 1, got 0"),
        ({"k": 1, "tie_break": "luck"}, "tie_break must be .* got 'luck'"),
    ],
)
def test_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        co_occurrence_graph(torch.tensor([[0], [0]]), 1, 1, **options)
    with pytest.raises(ValueError, match=r"item id 9 is outside \[0, 2\)"):
        co_occurrence_graph(torch.tensor([[0], [9]]), 1, 2, 1)


@pytest.mark.parametrize("tie_break", ["cosine", "popularity", "id"])
@pytest.mark.parametrize(("k", "min_count"), [(1, 1), (5, 1), (5, 3), (100, 2)])
def test_the_compiled_loop_agrees(monkeypatch, tie_break, k, min_count):
    """Random baskets, an item and a user without any, and one user who has every item but two."""
    heavy = torch.stack((torch.full((N_ITEMS - 3,), 40), torch.arange(3, N_ITEMS)))
    for edges in (
        random_edges(),
        torch.cat((random_edges(211), heavy), dim=1),
        heavy[:, :0],
        random_edges() - 1,
    ):
        options = {"min_count": min_count, "tie_break": tie_break}
        by_tensors = co_occurrence_graph(edges, N_USERS, N_ITEMS, k, **options)
        with monkeypatch.context() as patch:
            patch.setattr(co_occurrence, "COMPILE_FROM", 0)
            patch.setattr(co_occurrence, "_counted_pairs", None)
            assert same(co_occurrence_graph(edges, N_USERS, N_ITEMS, k, **options), by_tensors)


def test_a_user_with_tens_of_thousands_of_items():
    """Tensors would need 90 bytes for each of the 400 million pairs."""
    n_items = 20_001
    edges = torch.stack((torch.ones(n_items - 1, dtype=torch.int64), torch.arange(1, n_items)))
    edges = torch.cat((edges, torch.tensor([[2, 2], [7, 20_000]])), dim=1)
    graph = co_occurrence_graph(edges, 3, n_items, 3)
    assert graph._nnz() == 3 * (n_items - 1)
    neighbours = graph.indices()[1].view(-1, 3)
    assert neighbours[0].tolist() == [2, 3, 4]
    assert neighbours[6].tolist() == [1, 2, 20_000]
    assert graph.values().view(-1, 3)[6].tolist() == [0.5, 0.5, pytest.approx(2 / 3)]


def test_runs_of_items_have_at_most_max_pairs_pairs():
    """One item with more pairs has a run of its own; 3 + 2 pairs fill a run of 5 exactly."""
    n_pairs = torch.tensor([3, 3, 2, 5, 1, 9, 1, 1])
    assert co_occurrence._chunk_bounds(n_pairs, 5) == [0, 1, 3, 4, 5, 6, 8]


def test_a_long_count_logs_its_progress_and_can_be_stopped(monkeypatch, caplog):
    """The loop returns to Python between parts; the parts have the same result as one loop."""
    monkeypatch.setattr(co_occurrence, "COMPILE_FROM", 0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO):
        co_occurrence_graph(random_edges(), N_USERS, N_ITEMS, 5)
    history = torch.unique(random_edges(), dim=1)[0].bincount()
    n_pairs = int((history * history).sum())
    assert caplog.messages == [
        f"co-occurrence: {n} of {N_ITEMS} items, {n_pairs:,} pairs in all" for n in range(1, N_ITEMS + 1)
    ]
