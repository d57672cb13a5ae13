from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.eisg import build_eisg, item_graphs
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


@pytest.mark.parametrize("cache_dir", ["none", "kept"])
def test_item_graphs_are_those_of_the_builders(tmp_path: Path, cache_dir: str) -> None:
    draw = torch.Generator().manual_seed(3)
    edges = torch.stack(
        (torch.randint(1, 13, (89,), generator=draw), torch.randint(1, 17, (89,), generator=draw))
    )
    edges = torch.unique(edges, dim=1)
    features = {name: torch.randn(17, width, generator=draw) for name, width in (("text", 5), ("image", 7))}
    for x in features.values():
        x[0] = 0
    cache = GraphCache("none" if cache_dir == "none" else tmp_path)
    count: dict[str, int | str] = {"n_users": 13, "n_items": 17, "k": 3, "min_count": 2, "tie_break": "id"}
    for _ in range(2):  # the second time from the cache
        built = item_graphs(
            edges, features, cache, co_occurrence=count, semantic={"k": 2, "method": "exact"}, co_weight=0.3
        )
        assert list(built) == ["text", "image"]
        co = co_occurrence_graph(edges, 13, 17, 3, min_count=2, tie_break="id")
        for name, graphs in built.items():
            similar = semantic_graph(features[name], 2)
            expected = (co, similar, build_eisg(co, similar, 0.3))
            for one, other in zip(graphs, expected, strict=True):
                assert torch.equal(one.to_dense(), other.to_dense())


def test_the_cache_stores_each_graph_under_its_name(tmp_path: Path) -> None:
    edges = torch.tensor([[0, 0, 1, 1], [1, 2, 1, 2]])
    count: dict[str, int | str] = {"n_users": 2, "n_items": 3, "k": 1}
    features = {"text": torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]])}
    item_graphs(edges, features, GraphCache(tmp_path), co_occurrence=count, semantic={"k": 1}, co_weight=0.3)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {name.split("-")[0] for name in names} == {"co_occurrence", "semantic"}, names
