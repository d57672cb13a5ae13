from __future__ import annotations

import pytest
import torch

from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.model.layers import UserItem
from recbole_siger.model.rows import Distinct, Rows, sum_rows, take_rows, take_triple, without_repeats

IDS = torch.tensor([7, 2, 7, 0, 10, 2, 7])


@pytest.mark.parametrize("ids", [IDS, IDS[:0], IDS.reshape(7, 1), torch.tensor([[3, 3], [0, 10], [3, 5]])])
def test_rows_and_their_gradients_are_those_of_indexing(ids):
    x = torch.randn(11, 5, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(*ids.shape, 5)
    (x[ids] * weight).sum().backward()
    with force_choices(CUDA):
        taken = take_rows(y, ids)
        (taken * weight).sum().backward()
    assert torch.equal(taken, x[ids])
    torch.testing.assert_close(y.grad, x.grad)


def test_one_sort_serves_several_tables():
    rows = Rows(IDS, 11)
    for width in (5, 3):
        grad = torch.randn(7, width)
        torch.testing.assert_close(rows.sum(grad), torch.zeros(11, width).index_add(0, IDS, grad))
    assert sum_rows(torch.ones(7, 2), IDS, 13)[7].tolist() == [3, 3]


def test_a_triple_is_the_same_on_every_device():
    user, item = torch.randn(13, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    ids = torch.tensor([[3, 1, 3], [2, 2, 9], [2, 4, 9]])
    found = []
    for choices in (None, CUDA):
        with force_choices(choices):
            rows = take_triple(UserItem(user, item), *ids)
            loss = sum((k + 1) * x.pow(2).sum() for k, x in enumerate(rows))
            found.append((*rows, *torch.autograd.grad(loss, (user, item))))
    for plain, static in zip(*found, strict=True):
        torch.testing.assert_close(static, plain)


def test_distinct_ids_are_padded_to_the_length_of_the_batch():
    ids = torch.tensor([7, 2, 7, 1, 10, 2, 7])
    plain, padded = (Distinct(ids, 11, static=static) for static in (False, True))
    n = len(plain.ids)
    assert torch.equal(padded.ids[:n], plain.ids)
    assert not padded.ids[n:].any()
    assert torch.equal(padded.place, plain.place)
    assert padded.count.item() == n
    assert padded.valid().sum() == n
    table = torch.randn(11, 5, requires_grad=True)
    with force_choices(CUDA):
        (padded.of(table)[:n] * torch.arange(n).unsqueeze(1)).sum().backward()
    expected = torch.zeros(11, 5)
    expected[plain.ids] = torch.arange(n).unsqueeze(1).float()
    assert torch.equal(table.grad, expected)


def test_a_gpu_does_not_look_for_repeated_ids():
    with force_choices(CUDA):
        ids, place = without_repeats(IDS)
    assert ids is IDS
    assert place == slice(None)
