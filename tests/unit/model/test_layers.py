from __future__ import annotations

import pytest
import torch

from recbole_siger.model.layers import (
    FeatureGate,
    Projection,
    UserItem,
    dropout,
    embedding_tables,
    perturb,
    project,
    unit_rows,
)


def test_gate_starts_with_zero_biases_and_xavier_weights():
    gate = FeatureGate(211, 13)
    bound = (6 / (211 + 13)) ** 0.5
    assert not gate.inner.bias.any()
    assert not gate.outer.bias.any()
    assert 0.9 * bound < gate.inner.weight.abs().max() <= bound
    assert torch.equal(gate(torch.zeros(2, 211)), torch.full((2, 13), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_the_type_and_scales_what_is_left(dtype):
    found = dropout(torch.ones(1000, 10, dtype=dtype), 0.25, generator=torch.Generator().manual_seed(0))
    assert found.dtype == dtype
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75, dtype=dtype).item()}
    assert 0.72 < (found > 0).double().mean().item() < 0.78


def test_unit_rows_of_zero_and_tiny_rows():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1e-20, 0.0]], requires_grad=True)
    unit = unit_rows(x)
    assert unit.tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    unit.sum().backward()
    assert x.grad[[0, 2]].tolist() == [[0, 0], [0, 0]]


def test_perturb_repeats_with_its_generator():
    x = torch.randn(11, 5)
    first, second, third = (perturb(x, 0.1, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_perturb_moves_no_row_further_than_its_share():
    x = torch.randn(11, 5)
    x[3] = 0
    moved = (perturb(x, 0.1) - x).norm(dim=1)
    torch.testing.assert_close(moved[moved > 1e-6], (0.1 * x.norm(dim=1) / x.norm(dim=1).max())[moved > 1e-6])
    assert moved[3] == 0


@pytest.mark.parametrize("modulus", [False, True])
@pytest.mark.parametrize("detach_modulus", [False, True])
def test_perturb_of_zeros_is_finite(modulus, detach_modulus):
    x = torch.zeros(7, 3, requires_grad=True)
    out = perturb(x, 0.1, modulus=modulus, detach_modulus=detach_modulus)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(7, 3))
    assert torch.equal(x.grad, torch.ones(7, 3))


def test_perturb_lets_gradients_through_the_modulus_when_asked():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def run(table: torch.Tensor, detach: bool) -> torch.Tensor:
        return perturb(table, 0.5, generator=torch.Generator().manual_seed(0), detach_modulus=detach)

    assert torch.autograd.gradcheck(lambda t: run(t, False), x)
    with_path = torch.autograd.grad(run(x, False).square().sum(), x)[0]
    without = torch.autograd.grad(run(x, True).square().sum(), x)[0]
    assert not torch.allclose(with_path, without)


def test_perturb_leaves_fixed_rows_alone():
    x = torch.randn(11, 5, requires_grad=True)
    moved = perturb(x, 0.1, generator=torch.Generator().manual_seed(3), n_fixed=4)
    alone = perturb(x[4:], 0.1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(moved, torch.cat([x[:4], alone]))
    weight = torch.randn(11, 5)
    (together,) = torch.autograd.grad((moved * weight).sum(), x)
    (apart,) = torch.autograd.grad((alone * weight[4:]).sum(), x)
    torch.testing.assert_close(together[4:], apart[4:])
    assert torch.equal(together[:4], weight[:4])
    assert torch.equal(perturb(x, 0.1, n_fixed=11), x)


@pytest.mark.parametrize("modulus", [False, True])
def test_perturb_gradients(modulus):
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = (x.detach().norm(dim=1, keepdim=True) / x.detach().norm(dim=1).max()) if modulus else 1.0

    def run(table: torch.Tensor) -> torch.Tensor:
        return perturb(table, 0.5, generator=torch.Generator().manual_seed(0), modulus=modulus)

    def written_out(table: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(table.shape, generator=generator, dtype=table.dtype)
        order = torch.randperm(7, generator=generator)
        noisy = table + 0.5 * weight * table.sign() * noise / noise.norm(dim=1, keepdim=True)
        return table + 0.5 * weight * (noisy / noisy.norm(dim=1, keepdim=True))[order]

    torch.testing.assert_close(run(x), written_out(x))
    target = torch.randn(7, 3, dtype=torch.float64)
    (mine,) = torch.autograd.grad((run(x) * target).sum(), x)
    (plain,) = torch.autograd.grad((written_out(x) * target).sum(), x)
    torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("n_rows", [1, 7, 256, 601])
def test_project_is_a_linear_map_in_blocks(n_rows):
    features, weight = torch.randn(n_rows, 13, requires_grad=True), torch.randn(5, 13, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    mine, plain = project(features, weight, bias), torch.nn.functional.linear(features, weight, bias)
    torch.testing.assert_close(mine, plain)
    target = torch.randn(n_rows, 5)
    for left, right in zip(
        torch.autograd.grad((mine * target).sum(), (features, weight, bias)),
        torch.autograd.grad((plain * target).sum(), (features, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-4)


def test_project_of_bfloat16_features_is_within_its_rounding():
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(1301, 211, generator=generator)
    weight = torch.randn(5, 211, generator=generator, requires_grad=True)
    target = torch.randn(1301, 5, generator=generator)
    exact, rough = project(features.double(), weight.double()), project(features.bfloat16(), weight)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() / exact.norm() < 5e-3
    (wanted,) = torch.autograd.grad((exact * target).sum(), weight)
    (got,) = torch.autograd.grad((rough * target).sum(), weight)
    assert 0 < (got - wanted).norm() / wanted.norm() < 5e-3


def test_project_refuses():
    with pytest.raises(ValueError, match=r"\(I, F\) and \(d, F\), got \(3, 2\) and \(5, 4\)"):
        project(torch.ones(3, 2), torch.ones(5, 4))


def test_perturb_refuses():
    with pytest.raises(ValueError, match=r"n_fixed must be in \[0, 5\], got 6"):
        perturb(torch.ones(5, 2), 0.1, n_fixed=6)
    with pytest.raises(ValueError, match=r"shape \(I, d\), got \(5,\)"):
        perturb(torch.ones(5), 0.1)
    with pytest.raises(ValueError, match=r"eps must be at least 0, got -0\.1"):
        perturb(torch.ones(5, 2), -0.1)


def test_user_item_unpacks():
    user, item = UserItem(user=torch.zeros(2, 1), item=torch.ones(3, 1))
    assert len(user) == 2
    assert len(item) == 3


def test_embedding_tables_start_xavier_uniform():
    tables = embedding_tables((211, 13), (101, 7))
    for table, (n_rows, width) in zip(tables, ((211, 13), (101, 7)), strict=True):
        bound = (6 / (n_rows + width)) ** 0.5
        assert 0.9 * bound < table.weight.abs().max() <= bound
        assert table.weight.shape == (n_rows, width)


def test_a_projection_of_several_blocks_is_exact_to_a_millionth():
    """More rows than a block has, with whichever library multiplies here."""
    generator = torch.Generator().manual_seed(5)
    features, weight, bias = (torch.randn(s, generator=generator) for s in ((2179, 307), (11, 307), (11,)))
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    project(features, weight, bias).square().sum().backward()
    exact = [x.detach().double().requires_grad_() for x in (weight, bias)]
    torch.nn.functional.linear(features.double(), *exact).square().sum().backward()
    for mine, true in zip((weight, bias), exact, strict=True):
        assert (mine.grad - true.grad).abs().max() < 1e-6 * true.grad.abs().max()


def test_projection_starts_xavier_uniform_with_zero_biases():
    projection = Projection(211, 13)
    bound = (6 / (211 + 13)) ** 0.5
    assert 0.9 * bound < projection.weight.abs().max() <= bound
    assert not projection.bias.any()
    x = torch.randn(3, 211)
    torch.testing.assert_close(projection(x), torch.nn.functional.linear(x, projection.weight))
