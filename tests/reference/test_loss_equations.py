"""Eqs. 13, 14, 16 and 19 against their twins, and one value by hand for each."""

from __future__ import annotations

from math import e, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.model.loss import (
    anchor_info_nce,
    bpr_loss,
    cosine_loss,
    info_nce,
    l2_loss,
    norm_loss,
)
from tests.reference import twins

N_QUERIES, N_KEYS, WIDTH = 7, 11, 5
SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.floats(0.05, 5)


def tables(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and anchors ``(B, d)``, keys ``(N, d)`` with a zero row, targets ``(B,)``."""
    generator = torch.Generator().manual_seed(seed)
    query, anchor = torch.randn(2, N_QUERIES, WIDTH, generator=generator, dtype=torch.float64)
    key = torch.randn(N_KEYS, WIDTH, generator=generator, dtype=torch.float64)
    key[0] = 0
    return query, anchor, key, torch.randint(N_KEYS, (N_QUERIES,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, temperature=TEMPERATURES, chunk_size=st.sampled_from([1, 3, 2048]))
def test_info_nce_eqs_13_16(seed, temperature, chunk_size):
    query, _, key, target = tables(seed)
    loss = info_nce(query, key, temperature, target=target, chunk_size=chunk_size)
    expected = twins.info_nce(query.numpy(), key.numpy(), temperature, target.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, temperature=TEMPERATURES, chunk_size=st.sampled_from([1, 3, 2048]))
def test_anchor_info_nce_eq_14(seed, temperature, chunk_size):
    query, anchor, key, target = tables(seed)
    loss = anchor_info_nce(query, key, anchor, temperature, target=target, chunk_size=chunk_size)
    expected = twins.anchor_info_nce(query.numpy(), key.numpy(), anchor.numpy(), temperature, target.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_objective_eq_19(seed):
    """BPR plus the weighted L2 of the batch's users, positives and negatives."""
    user, pos, neg = torch.randn(3, 13, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    loss = bpr_loss((user * pos).sum(1), (user * neg).sum(1)) + 0.01 * l2_loss(user, pos, neg)
    u, p, n = user.numpy(), pos.numpy(), neg.numpy()
    expected = twins.bpr(np.sum(u * p, 1), np.sum(u * n, 1)) + 0.01 * twins.l2(u, p, n)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_losses_of_the_baselines(seed):
    """1 - cos with a zero row among the targets, and the length of whole tables."""
    query, _, key, _ = tables(seed)
    target = key[:N_QUERIES]
    expected = twins.distance(query.numpy(), target.numpy())
    assert cosine_loss(query, target).item() == pytest.approx(expected, rel=1e-9)
    assert norm_loss(key, query).item() == pytest.approx(twins.norms(key.numpy(), query.numpy()), rel=1e-9)


def test_by_hand_info_nce():
    """Cosines 1 and 0 at temperature 1: -log(e / (e + 1))."""
    query = torch.tensor([[3.0, 0.0]])
    key = torch.tensor([[0.0, 2.0], [7.0, 0.0]])
    assert info_nce(query, key, 1.0, target=torch.tensor([1])).item() == pytest.approx(-log(e / (e + 1)))


def test_by_hand_anchor_info_nce():
    """The anchor agrees with a (1) and not with b (0): A = e^(1/2); the other key has cosine -1 to a."""
    a, anchor = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0]])
    b = torch.tensor([[0.0, 2.0], [-3.0, 0.0]])
    loss = anchor_info_nce(a, b, anchor, 1.0, target=torch.tensor([0]))
    assert loss.item() == pytest.approx(-log(e**0.5 / (e**0.5 + e**-1)))


def test_by_hand_objective():
    """Scores 1 and 0: log(1 + 1/e); lengths squared 1, 1, 0 over 2B = 2."""
    user, pos, neg = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    assert bpr_loss((user * pos).sum(1), (user * neg).sum(1)).item() == pytest.approx(log(1 + 1 / e))
    assert l2_loss(user, pos, neg).item() == pytest.approx(1.0)
