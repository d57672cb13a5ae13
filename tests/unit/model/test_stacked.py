"""The losses that a GPU computes together are those that a CPU computes one by one."""

from __future__ import annotations

import pytest
import torch

from recbole_siger.model.batch import Contrast, batch_rows, contrast_all
from recbole_siger.model.device import CUDA, Choices, force_choices
from recbole_siger.model.layers import perturb
from recbole_siger.model.loss import info_nce, neighbor_discrimination
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.model.ranking import ranking_loss, ranking_losses
from recbole_siger.model.stacked import stacked_contrast
from recbole_siger.model.views import ItemViews, Noise, _Places, _StackedPerturbation, draw_noise

POS, NEG = torch.tensor([[2, 2, 9, 4, 1, 9, 9], [6, 2, 6, 8, 9, 3, 1]])
SMALL = Choices(static=True, logit_bytes=0, bag_size=2)


def losses_and_gradients(negatives, temperature, choices):
    torch.manual_seed(5)
    tables = [torch.randn(11, 5).mul_(10 ** torch.randint(-2, 2, (11, 1))) for _ in range(5)]
    tables[1][4] = 0  # a row without a direction
    tables = [table.requires_grad_() for table in tables]
    with force_choices(choices):
        rows = batch_rows(POS, NEG, n_rows=11, negatives=negatives)
        a, b, c, d, e = map(rows.of, tables)
        own = rows.keys_of(tables[0]) if negatives == "batch" else a
        pairs = [
            Contrast(rows, a, b, temperature, c),
            Contrast(rows, d, e, temperature),
            Contrast(rows, own, b, 0.7),
            Contrast(rows, b, d, temperature),
        ]
        losses = torch.stack(contrast_all(pairs))
        i, j = rows.take(a)
        total = (losses * torch.tensor([1.0, 3.0, 5.0, 7.0])).sum() + (i.square() * 2 - j.pow(3)).sum() / 100
        return losses.detach(), torch.autograd.grad(total, tables)


@pytest.mark.parametrize("negatives", ["batch", "full"])
@pytest.mark.parametrize("temperature", [0.2, 0.005])
def test_contrasts_leave_the_padding_out(negatives, temperature):
    plain = losses_and_gradients(negatives, temperature, None)
    static = losses_and_gradients(negatives, temperature, CUDA)
    torch.testing.assert_close(static[0], plain[0])
    for one, other in zip(static[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("temperature", [0.2, 0.005])
def test_the_chunks_of_a_stack_change_no_number(temperature):
    torch.manual_seed(3)
    tables = [torch.randn(7, 5, requires_grad=True) for _ in range(5)]
    valid, found = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0]]), []
    for chunk in (2, 3, 7):
        count = valid.sum(dim=1, keepdim=True)
        losses = stacked_contrast(tables[:2], tables[2:4], tables[4:], valid, count, temperature, chunk)
        found.append((losses, *torch.autograd.grad(losses @ torch.tensor([1.0, 2.0]), tables)))
    for chunked in found[:-1]:
        for one, other in zip(chunked, found[-1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    kept = valid[0].bool()
    torch.testing.assert_close(found[0][0][0], info_nce(tables[0][kept], tables[2][kept], temperature))


def test_weights_replace_the_mean_of_a_contrast():
    query, key = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    target, kept = torch.tensor([3, 3, 0, 10, 1, 0, 0]), torch.tensor([1.0, 1, 1, 0, 1, 0, 0])
    rows = kept.bool()
    expected = info_nce(query[rows], key, 0.2, target=target[rows])
    gradients = torch.autograd.grad(expected, (query, key))
    for choices in (None, CUDA, SMALL):
        with force_choices(choices):
            found = info_nce(query, key, 0.2, target=target, weight=kept / kept.sum())
            torch.testing.assert_close(found, expected)
            for one, other in zip(torch.autograd.grad(found, (query, key)), gradients, strict=True):
                torch.testing.assert_close(one, other)


def test_weights_replace_the_mean_over_discriminated_items():
    views = [torch.randn(13, 5, requires_grad=True) for _ in range(2)]
    items, kept = torch.tensor([4, 7, 0, 0, 12]), torch.tensor([1.0, 1, 0, 0, 1])
    expected = neighbor_discrimination(views, items[kept.bool()], 3, 0.2)
    gradients = torch.autograd.grad(expected, views)
    with force_choices(CUDA):
        found = neighbor_discrimination(views, items, 3, 0.2, weight=kept / kept.sum())
        torch.testing.assert_close(found, expected)
        for one, other in zip(torch.autograd.grad(found, views), gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_ranking_losses_of_a_gpu():
    rows, found = [torch.randn(7, 5, requires_grad=True) for _ in range(3)], []
    for choices in (None, CUDA):
        with force_choices(choices):
            ranked, squares = ranking_losses(*rows)
            alone = ranking_loss(*rows)
        found.append(
            (ranked, squares, alone, *torch.autograd.grad(2 * ranked + 3 * squares + 5 * alone, rows))
        )
    for plain, static in zip(*found, strict=True):
        torch.testing.assert_close(static, plain)


@pytest.mark.parametrize("modulus", [True, False])
def test_stacked_perturbations_are_perturbations(modulus, monkeypatch):
    x = torch.randn(2, 3, 7, 5)
    x[:, :, 0] = 0
    x.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    noise, order, back = draw_noise((1, 2, 2, 7, 5), generator, x, _Places.of((1, 2, 2, 7, 5), x.device))[0]
    assert torch.equal(order[back], torch.arange(len(order)))
    stacked = _StackedPerturbation.apply(x, Noise(0.3, modulus), noise, order, back)
    orders = order.view(2, 2, 7) - torch.arange(0, 28, 7).view(2, 2, 1)
    assert not orders[:, :, 0].any()
    expected = x.detach().clone().requires_grad_()
    tables = []
    for graph in range(2):
        tables.append(expected[graph, 0])
        for view in range(2):
            own, places = noise[graph, view, 1:].clone(), orders[graph, view, 1:] - 1
            monkeypatch.setattr(torch, "rand", lambda *_, own=own, **__: own)
            monkeypatch.setattr(torch, "randperm", lambda *_, places=places, **__: places)
            tables.append(perturb(expected[graph, view + 1], 0.3, modulus=modulus, n_fixed=1))
    weight = torch.randn(2, 3, 7, 5)
    torch.testing.assert_close(stacked, torch.stack(tables).view_as(stacked))
    (stacked * weight).sum().backward()
    (torch.stack(tables).view_as(stacked) * weight).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)


def test_item_views_of_a_gpu_are_those_of_a_cpu_but_for_the_draws():
    torch.manual_seed(3)  # a graph without a path of two edges has a layer of zeros, which gets no noise
    graphs = [SparseMatrix((torch.rand(11, 11) < 0.3).float().tril(-1).to_sparse()) for _ in range(3)]
    views, found = ItemViews(graphs), []
    items = [torch.randn(11, 5, requires_grad=True) for _ in graphs]
    for choices in (None, CUDA, SMALL):
        with force_choices(choices):
            clean, own = views(items, 2, 2, Noise(0.0), torch.Generator())
            tables = [*clean, *(view for pair in own for view in pair)]
            loss = sum(k * table.pow(2).sum() for k, table in enumerate(tables))
            found.append((*tables, *torch.autograd.grad(loss, items)))
    for static in found[1:]:
        for one, other in zip(static, found[0], strict=True):
            torch.testing.assert_close(one, other)
    with force_choices(CUDA):
        clean, own = views(items, 2, 2, Noise(0.3), torch.Generator().manual_seed(3))
    assert torch.equal(clean[1], found[0][1])
    assert all(
        (view - table).norm(dim=1).max() > 0 for table, pair in zip(clean, own, strict=True) for view in pair
    )


def test_users_of_a_batch_may_be_a_table_of_their_own():
    with force_choices(CUDA):
        rows = batch_rows(POS, n_rows=11, negatives="batch")
        table = torch.randn(11, 5)
        (taken,) = rows.take(rows.of(table))
    assert torch.equal(taken, table[POS])
