from __future__ import annotations

import pytest
import torch

from recbole_siger.graph.normalize import (
    normalize_adjacency,
    normalize_bipartite,
    normalize_rows,
    sparse_matrix,
    weighted_sum,
)


def test_empty_rows_stay_empty_and_finite():
    """Node 2 has no row of its own: its row is empty and the edge into it vanishes."""
    adjacency = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).to_sparse()
    result = normalize_adjacency(adjacency)
    assert result.to_dense().tolist() == [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]]
    assert result._nnz() == 2


def test_tiny_weights_do_not_overflow():
    adjacency = torch.tensor([[0.0, 1e-40], [1e-40, 0.0]]).to_sparse()
    torch.testing.assert_close(normalize_adjacency(adjacency).to_dense(), torch.tensor([[0.0, 1], [1, 0]]))


def test_symmetric_input_gives_a_symmetric_result_to_the_last_bit():
    half = torch.rand(29, 29, generator=torch.Generator().manual_seed(0))
    result = normalize_adjacency((half + half.T).to_sparse()).to_dense()
    assert torch.equal(result, result.T)


def test_duplicate_entries_are_summed():
    twice = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [2.0, 2.0, 4.0], (2, 2), check_invariants=True)
    assert normalize_adjacency(twice).to_dense().tolist() == [[0, 1], [1, 0]]


def test_no_entries():
    empty = sparse_matrix(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), (3, 5))
    assert normalize_bipartite(empty)._nnz() == 0
    assert normalize_bipartite(empty).shape == (3, 5)


@pytest.mark.parametrize("bad", [-0.5, float("inf"), float("nan")])
@pytest.mark.parametrize("normalize", [normalize_adjacency, normalize_bipartite, normalize_rows])
def test_refuses_bad_weights(normalize, bad):
    with pytest.raises(ValueError, match=f"finite weights >= 0, got {bad}"):
        normalize(torch.tensor([[0.0, bad], [1.0, 0.0]]).to_sparse())


def test_refuses_other_shapes_and_layouts():
    with pytest.raises(ValueError, match=r"square, got shape \(2, 3\)"):
        normalize_adjacency(torch.ones(2, 3).to_sparse())
    with pytest.raises(ValueError, match=r"sparse COO tensor, got layout torch\.strided"):
        normalize_adjacency(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"2 dimensions, got shape \(5,\)"):
        normalize_bipartite(torch.ones(5).to_sparse())
    with pytest.raises(ValueError, match=r"2 dimensions, got shape \(5,\)"):
        normalize_rows(torch.ones(5).to_sparse())


def test_gradients_go_through_the_degrees():
    """Against a dense one, beside a row that stores a zero, whose degree has no root to derive."""
    index = torch.tensor([[0, 0, 1, 2, 2, 3], [1, 2, 0, 2, 1, 0]])
    value = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5, 0.0], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))

    def graph() -> torch.Tensor:
        return torch.sparse_coo_tensor(index, value, (4, 4), check_invariants=True)

    found = torch.autograd.grad((normalize_adjacency(graph()).to_dense() * weight).sum(), value)[0]
    dense = graph().to_dense()[:3, :3]
    scale = dense.sum(dim=1).rsqrt()
    expected = torch.autograd.grad((scale[:, None] * dense * scale * weight[:3, :3]).sum(), value)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_weighted_sum_carries_the_gradients_of_graphs_and_weights():
    one, other = torch.rand(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    one[0], other[:, 2] = 0, 0
    one, other = (x.to_sparse().requires_grad_() for x in (one, other))
    weights = torch.tensor([0.3, -2.0], dtype=torch.float64, requires_grad=True)
    total = weighted_sum([one, other], weights)
    torch.testing.assert_close(total.to_dense(), 0.3 * one.to_dense() - 2 * other.to_dense())
    assert torch.equal(total.indices(), total.coalesce().indices())
    total.to_dense().sum().backward()
    torch.testing.assert_close(
        weights.grad, torch.stack([one.detach().values().sum(), other.detach().values().sum()])
    )
    assert one.grad.to_dense()[1:].unique().tolist() == [pytest.approx(0.3)]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_a_weighted_sum_refuses_what_does_not_fit(weights):
    graph = torch.ones(2, 3).to_sparse()
    with pytest.raises(ValueError, match="one shape and a weight each"):
        weighted_sum([graph, graph], weights)
    with pytest.raises(ValueError, match="one shape and a weight each"):
        weighted_sum([graph, torch.ones(3, 2).to_sparse()], [1.0, 2.0])


def test_a_weighted_sum_of_one_graph_and_the_shapes_in_the_refusal():
    graph = torch.ones(2, 3).to_sparse()
    assert torch.equal(weighted_sum([graph], [0.5]).to_dense(), torch.full((2, 3), 0.5))
    with pytest.raises(ValueError, match=r"got \{\(2, 3\)\} and \[1\.0, 2\.0\]"):
        weighted_sum([graph], [1.0, 2.0])


@pytest.mark.parametrize(
    ("normalize", "name"),
    [
        (normalize_adjacency, "adjacency"),
        (normalize_bipartite, "interactions"),
        (normalize_rows, "adjacency"),
    ],
)
def test_a_refusal_names_the_argument(normalize, name):
    with pytest.raises(ValueError, match=f"^{name} must be a sparse COO tensor"):
        normalize(torch.eye(3))


@pytest.mark.parametrize("index", [[[0, 3], [1, 1]], [[0, 1], [5, 1]], [[0, -1], [1, 1]]])
def test_an_index_outside_the_shape_is_refused(index: list[list[int]]) -> None:
    with pytest.raises(RuntimeError, match=r"size is inconsistent with indices|negative ind"):
        sparse_matrix(torch.tensor(index), torch.ones(2), (3, 5))


def test_entries_that_are_said_to_be_in_order_are_checked():
    index, value = torch.tensor([[0, 0, 1], [0, 2, 1]]), torch.tensor([1.0, 2.0, 3.0])
    sorted_here = sparse_matrix(index, value, (2, 3))
    as_said = sparse_matrix(index, value, (2, 3), ordered=True)
    assert as_said.is_coalesced()
    assert torch.equal(as_said.indices(), sorted_here.indices())
    assert torch.equal(as_said.values(), sorted_here.values())
    for wrong in (index.flip(1), index[:, [0, 0, 1]]):
        with pytest.raises(RuntimeError, match="coalesced"):
            sparse_matrix(wrong, value, (2, 3), ordered=True)
