from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.eisg import build_eisg
from recbole_siger.graph.knn import semantic_graph
from recbole_siger.graph.normalize import normalize_adjacency
from recbole_siger.graph.user_item import user_item_adjacency
from recbole_siger.model.propagation import SparseMatrix

N_USERS, N_ITEMS = 101, 211


def graphs(device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    user = torch.randint(1, N_USERS, (1009,), generator=generator)
    item = torch.randint(1, N_ITEMS, (1009,), generator=generator)
    features = torch.randint(-2, 3, (N_ITEMS, 13), generator=generator).float()
    co = co_occurrence_graph(torch.stack((user, item)).to(device), N_USERS, N_ITEMS, 5)
    semantic = semantic_graph(features.to(device), 10, chunk_size=64)
    return [co, semantic, build_eisg(co, semantic, 0.3)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_build_the_same_graphs():
    for here, there in zip(graphs("cpu"), graphs("cuda"), strict=True):
        assert there.is_cuda
        assert torch.equal(here.indices(), there.indices().cpu())
        torch.testing.assert_close(here.values(), there.values().cpu(), rtol=1e-6, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_multiply_alike():
    results = []
    for device in ("cpu", "cuda"):
        matrix = SparseMatrix(graphs("cpu")[2]).to(device)
        x = torch.linspace(-1, 1, N_ITEMS * 5, device=device).view(N_ITEMS, 5).requires_grad_()
        matrix(matrix(x)).square().sum().backward()
        results.append((matrix(x).detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(results[0], results[1])


def of_edges(edges: torch.Tensor, semantic: torch.Tensor) -> list[torch.Tensor]:
    co = co_occurrence_graph(edges, 5, 7, 2)
    user_item = user_item_adjacency(edges, 5, 7, self_loops=True)
    return [co, user_item, normalize_adjacency(user_item), build_eisg(co, semantic, 0.3)]


def test_graphs_of_edges_are_on_the_device_of_the_edges():
    """Whatever the default device is: on ``meta``, which is the default here, no tensor has values."""
    edges, semantic = torch.tensor([[1, 2, 3, 1], [2, 3, 2, 1]]), torch.eye(7).to_sparse()
    expected = of_edges(edges, semantic)
    with torch.device("meta"):
        built = of_edges(edges, semantic)
    for one, other in zip(built, expected, strict=True):
        assert one.is_cpu
        assert torch.equal(one.to_dense(), other.to_dense())
