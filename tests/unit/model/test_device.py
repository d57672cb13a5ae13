from __future__ import annotations

import torch

from recbole_siger.model.device import CHUNK_SIZE, CPU, CUDA, Choices, choices, force_choices
from recbole_siger.model.loss import info_nce
from recbole_siger.testing.dispatch import count_step


def test_the_choices_of_a_cpu_are_those_of_its_tensors_unless_forced():
    x = torch.zeros(1)
    assert choices(x) is CPU
    with force_choices(CUDA):
        assert choices(x) is CUDA
        with force_choices(None):
            assert choices(x) is CPU
        assert choices(x) is CUDA
    assert choices(x) is CPU


def test_the_number_of_queries_at_a_time_follows_the_bytes():
    assert CPU.chunk_size(7_919) == CHUNK_SIZE
    assert Choices(static=True, logit_bytes=4 * 7_919 * 1_009).chunk_size(7_919) == 1_009
    assert Choices(static=True, logit_bytes=4 * 7_919 * 1_009).chunk_size(7_919, 3) == 336
    assert CUDA.chunk_size(10**9) == CHUNK_SIZE
    assert CUDA.chunk_size(0) > 10**6


def test_a_gpu_compares_all_queries_at_once():
    x = torch.randn(1_009, 5)
    few, many = (count_step(lambda: info_nce(x, x, 0.2), one) for one in (CUDA, CPU))
    assert few.operations["exp_"] == 1
    assert many.operations["exp_"] == 8
    assert many.launches > 2 * few.launches


def test_a_count_names_what_waits_and_what_varies():
    x, ids = torch.randn(7, 5, requires_grad=True), torch.tensor([3, 3, 1])

    def step():
        x.index_select(0, ids).sum().backward()
        ids[ids > 2].nonzero()
        torch.zeros(7).scatter_(0, ids, torch.tensor([1.0, 2.0, 3.0]))
        torch.zeros(7).index_copy_(0, ids[1:], torch.tensor([2.0, 3.0]))
        return ids.unique(), x.detach().cumsum(0), ids.cumsum(0), x.sum().item()

    count = count_step(step)
    expected = {"index": 1, "nonzero": 1, "_unique2": 1, "_local_scalar_dense": 1, "lift_fresh": 2}
    assert +count.waiting == expected
    assert +count.varying == {"index_add": 1, "scatter_": 1, "cumsum": 1}
