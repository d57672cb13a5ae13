from __future__ import annotations

import pytest
import torch

from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.model.propagation import (
    SparseMatrix,
    propagate_last,
    propagate_mean,
    propagate_user_item,
    sparse_product,
)


def random_dense(n: int, m: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    keep = torch.rand(n, m, generator=generator) < 0.4
    keep[2] = False
    return torch.randn(n, m, generator=generator) * keep


def test_sparse_matrix_multiplies_as_the_dense_one():
    dense = random_dense(11, 7)
    matrix = SparseMatrix(dense.to_sparse())
    x = torch.randn(7, 5, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(matrix(x), dense @ y)
    (matrix(x) * torch.arange(5.0)).sum().backward()
    ((dense @ y) * torch.arange(5.0)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert matrix.shape == (11, 7)


@pytest.mark.parametrize("symmetric", [False, True])
def test_sparse_matrix_gradients(symmetric):
    dense = random_dense(7, 7)
    dense = dense + dense.T if symmetric else dense
    matrix = SparseMatrix(dense.to_sparse(), symmetric=symmetric)
    matrix.double()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: matrix(matrix(t)) * t, x)
    assert torch.autograd.gradgradcheck(lambda t: matrix(t).sin(), x)


def test_sparse_matrix_follows_the_type_of_x():
    matrix = SparseMatrix(random_dense(11, 7).to_sparse())
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(matrix(x), random_dense(11, 7).double() @ x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_all_ways_to_multiply_agree():
    dense = random_dense(11, 7)
    dense[3], dense[5], dense[10] = 1, 0, 0  # a full row and empty rows
    matrix, _ = SparseMatrix(dense.to_sparse()).pair()
    x = torch.randn(7, 5)
    torch.testing.assert_close(matrix.times_by_csr(x), matrix.times_by_bags(x))
    for size in (1, 2, 64):  # pieces of a row, and whole rows
        torch.testing.assert_close(matrix.times_by_pieces(x, size), matrix.times_by_bags(x))


def test_what_a_device_needs_of_a_matrix_is_made_once():
    matrix = SparseMatrix(random_dense(11, 7).to_sparse())
    x = torch.randn(7, 5, requires_grad=True)
    with force_choices(CUDA):
        (2 * matrix(x)).sum().backward()
        stored = [dict(one) for one in matrix._bags]
        matrix.double().float()
        matrix.with_values(2 * matrix.val)(x).sum().backward()
    assert [len(one) for one in stored] == [1, 1]
    assert all(
        before[key] is now[key] for before, now in zip(stored, matrix._bags, strict=True) for key in before
    )
    torch.testing.assert_close(x.grad, 4 * random_dense(11, 7).T @ torch.ones(11, 5), check_stride=False)


def test_a_product_is_chosen_in_the_forward_pass():
    matrix = SparseMatrix(random_dense(11, 7).to_sparse())
    x = torch.randn(7, 5, requires_grad=True)
    with force_choices(CUDA):
        product = matrix(x)
    product.sum().backward()  # in another thread on a GPU
    assert all(matrix._bags)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mean_propagation_gradients(symmetric):
    dense = random_dense(7, 7)
    dense = (dense + dense.T if symmetric else dense).double()  # float32 holds each value exactly
    matrix = SparseMatrix(dense.to_sparse(), symmetric=symmetric).double()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    layers = [x, dense @ x, dense @ dense @ x]
    torch.testing.assert_close(
        propagate_mean(matrix, x, 2), torch.stack(layers).mean(dim=0), rtol=1e-6, atol=0
    )
    assert torch.autograd.gradcheck(lambda t: propagate_mean(matrix, t, 2), x)
    assert torch.autograd.gradgradcheck(lambda t: propagate_mean(matrix, t, 2).sin(), x)


def test_sparse_matrix_without_gradients_and_without_entries():
    with torch.no_grad():
        out = SparseMatrix(torch.zeros(3, 2).to_sparse())(torch.ones(2, 5, requires_grad=True))
    assert not out.requires_grad
    assert torch.equal(out, torch.zeros(3, 5))


def test_sparse_matrix_stays_out_of_checkpoints_and_symmetric_ones_are_stored_once():
    dense = random_dense(7, 7)
    one_way = SparseMatrix(dense.to_sparse())
    both_ways = SparseMatrix((dense + dense.T).to_sparse(), symmetric=True)
    assert not one_way.state_dict()
    assert len(list(one_way.buffers())) == 6
    assert len(list(both_ways.buffers())) == 3
    assert "7 x 7" in repr(one_way)


def test_sparse_matrix_refuses():
    with pytest.raises(ValueError, match=r"sparse COO, got torch\.strided of shape \(2, 2\)"):
        SparseMatrix(torch.ones(2, 2))
    for dense in (random_dense(7, 7), random_dense(11, 7), torch.tensor([[0.0, 1.0], [2.0, 0.0]])):
        with pytest.raises(ValueError, match="given as symmetric and is not"):
            SparseMatrix(dense.to_sparse(), symmetric=True)
    matrix = SparseMatrix(random_dense(11, 7).to_sparse())
    with pytest.raises(ValueError, match=r"shape \(7, d\), got \(11, 5\)"):
        matrix(torch.ones(11, 5))


def test_propagation_of_no_layers_is_the_input():
    matrix, x = SparseMatrix(random_dense(7, 7).to_sparse()), torch.randn(7, 3)
    assert torch.equal(propagate_mean(matrix, x, 0), x)
    assert torch.equal(propagate_last(matrix, x, 0), x)


@pytest.mark.parametrize("propagate", [propagate_mean, propagate_last])
def test_propagation_refuses_negative_layers(propagate):
    with pytest.raises(ValueError, match="n_layers must be at least 0, got -1"):
        propagate(SparseMatrix(random_dense(7, 7).to_sparse()), torch.randn(7, 3), -1)


def test_propagation_of_users_and_items_is_that_of_their_joined_table():
    dense = random_dense(11, 11)
    matrix = SparseMatrix((dense + dense.T).to_sparse(), symmetric=True)
    user, item = torch.randn(7, 3), torch.randn(4, 3)
    found = propagate_user_item(matrix, user, item, 2)
    torch.testing.assert_close(torch.cat(found), propagate_mean(matrix, torch.cat([user, item]), 2))
    assert (len(found.user), len(found.item)) == (7, 4)


def test_propagation_takes_any_product():
    dense, x = random_dense(7, 7), torch.randn(7, 3)
    torch.testing.assert_close(propagate_last(lambda t: dense @ t, x, 2), dense @ dense @ x)


def sparse_with(value: torch.Tensor) -> torch.Tensor:
    """``(11, 7)`` with one place named twice and one row empty."""
    index = torch.tensor([[0, 0, 10, 3, 3, 3, 0], [6, 1, 5, 0, 2, 6, 1]])
    return torch.sparse_coo_tensor(index, value, (11, 7), check_invariants=True)


def test_sparse_product_is_the_dense_one_and_so_are_its_gradients():
    value = torch.rand(7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64)
    sparse, dense = sparse_product(sparse_with(value), x), sparse_with(value).to_dense() @ x
    torch.testing.assert_close(sparse, dense)
    assert not sparse[1].any()
    for found, expected in zip(
        torch.autograd.grad((sparse * weight).sum(), (value, x)),
        torch.autograd.grad((dense * weight).sum(), (value, x)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda v, t: sparse_product(sparse_with(v), t), (value, x))


def test_sparse_product_agrees_with_the_fixed_one():
    graph, x = random_dense(11, 7).to_sparse(), torch.randn(7, 5)
    torch.testing.assert_close(sparse_product(graph, x), SparseMatrix(graph)(x))


def test_sparse_product_refuses():
    with pytest.raises(ValueError, match=r"\(n, m\) and \(m, d\), got \(11, 7\) and \(11, 5\)"):
        sparse_product(random_dense(11, 7).to_sparse(), torch.ones(11, 5))
