from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.eisg import build_eisg
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency

CO = torch.tensor([[0, 0, 0], [0, 0, 0.5], [0, 0.75, 0]]).to_sparse()
SEMANTIC = semantic_graph(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]), 2)


@pytest.mark.parametrize(("co_weight", "only"), [(0.0, SEMANTIC), (1.0, CO)])
def test_the_ends_are_exactly_one_graph(co_weight, only):
    built, expected = build_eisg(CO, SEMANTIC, co_weight), normalize_adjacency(only)
    assert torch.equal(built.indices(), expected.indices())
    assert torch.equal(built.values(), expected.values())


def test_padding_row_stays_empty():
    assert build_eisg(CO, SEMANTIC, 0.5).indices().min() == 1


def test_an_item_without_features_keeps_its_co_occurrences():
    built = build_eisg(CO, torch.zeros(3, 3).to_sparse(), 0.5)
    torch.testing.assert_close(built.to_dense(), 0.5 * normalize_adjacency(CO).to_dense())


def test_refuses_bad_input():
    with pytest.raises(ValueError, match=r"co_weight must be in \[0, 1\], got 1.5"):
        build_eisg(CO, SEMANTIC, 1.5)
    with pytest.raises(ValueError, match="got nan"):
        build_eisg(CO, SEMANTIC, float("nan"))
    with pytest.raises(ValueError, match=r"same shape, got \(3, 3\) and \(2, 2\)"):
        build_eisg(CO, torch.eye(2).to_sparse(), 0.5)
