"""Dropped entries and propagation with a restart, against dense matrices and loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.model.diffusion import drop_entries, propagate_restart
from recbole_siger.model.propagation import SparseMatrix, propagate_mean
from tests.reference import twins

Array = np.ndarray


def restarted(matrix: Array, x: Array, n_layers: int, restart: float) -> Array:
    """Y_l = (1 - α) A Y_{l-1} + α X, one number at a time."""
    layer = x
    for _ in range(n_layers):
        gathered, after = twins.product(matrix, layer), np.zeros_like(x)
        for i in range(len(x)):
            for c in range(x.shape[1]):
                after[i, c] = (1 - restart) * gathered[i, c] + restart * x[i, c]
        layer = after
    return layer


def dense_graph(n: int, m: int, *, symmetric: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    dense = torch.rand(n, m, generator=generator, dtype=torch.float64).add(0.5)
    dense = dense * (torch.rand(n, m, generator=generator) < 0.4)
    dense[2] = 0
    if symmetric:
        dense[:, 2] = 0
        dense = dense + dense.T
    return dense.float().double()  # float32 holds each value exactly


def fixed(dense: torch.Tensor, *, symmetric: bool = False) -> SparseMatrix:
    return SparseMatrix(dense.to_sparse(), symmetric=symmetric).double()


def as_dense(product: Callable[[torch.Tensor], torch.Tensor], n_columns: int) -> torch.Tensor:
    return product(torch.eye(n_columns, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    n_layers=st.integers(0, 4),
    restart=st.floats(0, 1),
    density=st.floats(0, 1),
)
def test_propagation_with_a_restart(seed: int, n_layers: int, restart: float, density: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((7, 7)).astype(np.float32).astype(float) * (rng.random((7, 7)) < density)
    x = rng.normal(size=(7, 3))
    found = propagate_restart(fixed(torch.from_numpy(matrix)), torch.from_numpy(x), n_layers, restart=restart)
    np.testing.assert_allclose(found.numpy(), restarted(matrix, x, n_layers, restart), rtol=1e-9, atol=1e-12)


def test_the_restart_is_a_tenth() -> None:
    """A node without neighbours: .1, and not .1 to the power of the layers."""
    empty = SparseMatrix(torch.zeros(1, 1).to_sparse())
    assert propagate_restart(empty, torch.tensor([[5.0]]), 3).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "m", "symmetric"), [(11, 7, False), (7, 7, False), (11, 11, True)])
@pytest.mark.parametrize("rescale", [False, True])
def test_kept_entries_and_their_gradients(n: int, m: int, symmetric: bool, rescale: bool) -> None:
    dense = dense_graph(n, m, symmetric=symmetric)
    matrix = fixed(dense, symmetric=symmetric)
    thinned = drop_entries(matrix, 0.5, rescale=rescale, generator=torch.Generator().manual_seed(3))
    drawn = as_dense(thinned, m)
    kept = drawn != 0
    assert 0 < kept.sum() < (dense != 0).sum()
    torch.testing.assert_close(drawn, dense * kept * (2 if rescale else 1))
    if symmetric:
        assert not torch.equal(drawn, drawn.T)  # each direction by itself
    x = torch.randn(m, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n, 3, dtype=torch.float64)
    (thinned(x) * weight).sum().backward()
    torch.testing.assert_close(x.grad, drawn.T @ weight)
    assert torch.autograd.gradcheck(lambda t: thinned(t).sin(), x)
    assert matrix.val.count_nonzero() == (dense != 0).sum()  # the matrix itself is whole
    torch.testing.assert_close(as_dense(matrix, m), dense)


def test_layers_over_a_thinned_graph_have_the_gradients_of_the_dense_one() -> None:
    matrix = fixed(dense_graph(11, 11, symmetric=True), symmetric=True)
    thinned = drop_entries(matrix, 0.7, generator=torch.Generator().manual_seed(3))
    drawn = as_dense(thinned, 11)
    x = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    mean = (y + drawn @ y + drawn @ drawn @ y) / 3
    torch.testing.assert_close(propagate_mean(thinned, x, 2), mean)
    (propagate_mean(thinned, x, 2) + propagate_restart(thinned, x, 2)).sin().sum().backward()
    (mean + 0.9 * drawn @ (0.9 * drawn @ y + 0.1 * y) + 0.1 * y).sin().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_the_generator_decides_what_is_kept() -> None:
    matrix = fixed(dense_graph(11, 7))
    generator = torch.Generator().manual_seed(3)
    first, second = (as_dense(drop_entries(matrix, 0.5, generator=generator), 7) for _ in range(2))
    again = as_dense(drop_entries(matrix, 0.5, generator=torch.Generator().manual_seed(3)), 7)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("keep", "rescale"), [(0.3, True), (0.3, False)])
def test_each_entry_is_kept_with_its_probability(keep: float, rescale: bool) -> None:
    """4,000 draws of 5 entries: the share of each, and no entry depends on another."""
    matrix, n = SparseMatrix(torch.diag(torch.arange(1.0, 6.0)).to_sparse()), 4000
    generator, ones = torch.Generator().manual_seed(7), torch.ones(5, 1)
    drawn = torch.stack(
        [drop_entries(matrix, keep, rescale=rescale, generator=generator)(ones).squeeze(1) for _ in range(n)]
    )
    kept = (drawn != 0).double()
    np.testing.assert_allclose(kept.mean(dim=0), keep, atol=4 * (keep * (1 - keep) / n) ** 0.5)
    correlation = np.corrcoef(kept.T)[~np.eye(5, dtype=bool)]
    np.testing.assert_allclose(correlation, 0, atol=4.5 / n**0.5)
    sums = drawn.mean(dim=0) / torch.arange(1.0, 6.0)
    np.testing.assert_allclose(sums, 1 if rescale else keep, rtol=0.12)


def test_nothing_is_drawn_where_all_is_kept() -> None:
    matrix, generator = fixed(dense_graph(11, 7)), torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert drop_entries(matrix, 1.0, generator=generator) is matrix
    assert torch.equal(generator.get_state(), before)


def test_what_does_not_fit_is_refused() -> None:
    matrix = fixed(dense_graph(11, 7))
    for keep in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
            drop_entries(matrix, keep)
    with pytest.raises(ValueError, match=r"value must have shape \(\d+,\), got \(3,\)"):
        matrix.with_values(torch.ones(3))
    with pytest.raises(ValueError, match=r"x must have shape \(7, d\), got \(11, 1\)"):
        drop_entries(matrix, 0.5)(torch.ones(11, 1))
    with pytest.raises(ValueError, match="n_layers must be at least 0, got -1"):
        propagate_restart(matrix, torch.ones(7, 1), -1)
    with pytest.raises(ValueError, match=r"restart must be in \[0, 1\], got 1.1"):
        propagate_restart(matrix, torch.ones(7, 1), 1, restart=1.1)
