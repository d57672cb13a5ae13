"""Negatives: the ones that RecBole draws, never a training item, uniform over the rest."""

from __future__ import annotations

import tracemalloc
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from scipy.stats import chisquare

from recbole_siger.config import Config
from recbole_siger.data import sampler as module
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.sampler import NegativeSampler, PairSet
from recbole_siger.errors import UserError
from tests.toy import write_toy

N_USERS, N_ITEMS = 13, 17

PAIRS = st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1)))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("data")
    write_toy(folder)
    config = Config("BPR", "toy", config_dict={"data_path": str(folder), "gpu_id": ""})
    return MultimodalDataset(config).build()[0]


@settings(max_examples=100)
@given(PAIRS, PAIRS)
def test_the_set_holds_its_pairs_and_no_other(pairs: list[Any], asked: list[Any]) -> None:
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    asked = [*asked, *pairs]
    asked_users, asked_items = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    for few in (0, 64):  # with the table of bits, and without it
        with mock.patch.object(module, "_FEW", few):
            found = PairSet(users, items, N_ITEMS).contains(asked_users, asked_items)
        assert found.dtype == bool
        assert found.tolist() == [pair in pairs for pair in asked]


def test_the_set_holds_the_greatest_ids() -> None:
    n_users, n_items = 40_000_000, 30_000_000
    users = np.array([0, n_users - 1, n_users - 1], dtype=np.int64)
    items = np.array([0, n_items - 1, 0], dtype=np.int64)
    asked = np.array([n_users - 2, n_users - 1, 0, n_users - 1], dtype=np.int64)
    found = PairSet(users, items, n_items).contains(asked, np.array([n_items - 1, n_items - 1, 0, 1]))
    assert found.tolist() == [False, True, True, False]


@pytest.mark.parametrize("size", [64, 1024, 1 << 26])
def test_a_table_made_in_parts_is_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    monkeypatch.setattr(module, "_BITS_AT_A_TIME", size)
    pairs = PairSet(rng.integers(0, 53, 211), rng.integers(0, 71, 211), 71)
    whole = np.zeros(8 * len(pairs._bits), dtype=bool)
    whole[pairs._place(pairs.keys)] = True
    assert np.array_equal(np.unpackbits(pairs._bits, bitorder="little"), whole)


def test_the_table_is_made_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte for each bit of the table would be 93 bytes a pair here."""
    monkeypatch.setattr(module, "_BITS_AT_A_TIME", 1 << 16)
    keys = np.arange(90_001, dtype=np.int64)
    tracemalloc.start()
    PairSet(keys, keys % 7, 7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(keys)


def test_most_answers_need_no_search() -> None:
    rng = np.random.default_rng(3)
    pairs = PairSet(rng.integers(0, 5003, 20_011), rng.integers(0, 7001, 20_011), 7001)
    keys = np.arange(100_003, dtype=np.int64)
    bits = np.unpackbits(pairs._bits, bitorder="little")
    assert bits[pairs._place(keys)].mean() < 0.03


@pytest.mark.parametrize(("distribution", "alpha"), [("uniform", 1.0), ("popularity", 0.5)])
@pytest.mark.parametrize("num", [1, 3])
def test_the_negatives_are_recboles(train: Any, distribution: str, alpha: float, num: int) -> None:
    ours = NegativeSampler(train, distribution, alpha)
    theirs = Sampler(["train"], [train], distribution, alpha).set_phase("train")
    rng = np.random.default_rng(5)
    users = [rng.integers(1, train.user_num, 101), np.full(11, 7), np.array([4])]
    drawn = []
    for sampler in (ours, theirs):
        np.random.seed(11)  # noqa: NPY002  # RecBole's stream
        drawn.append([sampler.sample_by_user_ids(batch, None, num) for batch in users])
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize("train_items", [False, True])
def test_negatives_are_uniform_over_what_a_user_does_not_have(train: Any, train_items: bool) -> None:
    np.random.seed(2)  # noqa: NPY002  # RecBole's stream
    sampler, (users, items) = NegativeSampler(train, train_items=train_items), train.train_edges.numpy()
    user = int(users[0])
    drawn = sampler.sample_by_user_ids(np.full(20_011, user), None, 1).numpy()
    pool = np.unique(items) if train_items else np.arange(1, train.item_num)
    allowed = np.setdiff1d(pool, items[users == user])
    counts = np.bincount(drawn, minlength=train.item_num)
    assert counts.sum() == counts[allowed].sum()
    assert chisquare(counts[allowed]).pvalue > 0.01


def test_a_user_with_all_items_is_told(train: Any) -> None:
    class Full:
        uid_field, iid_field, user_num, item_num = "user_id", "item_id", 3, 4
        train_edges = torch.tensor([[1, 2, 2, 2], [1, 1, 2, 3]])
        inter_feat = train.inter_feat

    with pytest.raises(ValueError, match="interacted with all items"):
        NegativeSampler(Full())  # type: ignore[arg-type]


class Drawn:
    """A training split of given pairs, of 3 users and 7 items with padding."""

    uid_field, iid_field, user_num, item_num = "user_id", "item_id", 3, 7
    user_tokens = ("[PAD]", "ann", "bob")

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self.train_edges = torch.tensor(pairs).T
        self.inter_feat = Interaction({"user_id": self.train_edges[0], "item_id": self.train_edges[1]})


# Items 5 and 6 occur only in test.
ALL_OF_BOB = [(2, 1), (2, 2), (2, 3), (2, 4), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("pairs", "alpha"),
    [
        (ALL_OF_BOB, 1.0),
        (ALL_OF_BOB + [(2, 1)] * 5, 0.5),  # repeated rows
        (ALL_OF_BOB, 0.0),
        ([(2, 1)] * 1000 + [(2, 2)] * 900 + [(1, 3)], 50.0),  # item 3 is drawn once in 1e148 times
    ],
)
def test_popularity_that_would_draw_for_ever(pairs: list[tuple[int, int]], alpha: float) -> None:
    with pytest.raises(UserError) as caught:
        NegativeSampler(Drawn(pairs), "popularity", alpha)  # type: ignore[arg-type]
    assert str(caught.value).startswith(
        f"train_neg_sample_args: distribution=popularity, alpha={alpha}: user 'bob' has (nearly) all "
    )


def test_popularity_that_ends() -> None:
    pairs = [*ALL_OF_BOB[1:], (1, 1)]  # item 1 is ann's alone
    sampler = NegativeSampler(Drawn(pairs), "popularity", 1.0)  # type: ignore[arg-type]
    assert sampler.sample_by_user_ids(np.full(101, 2), None, 1).unique().tolist() == [1]
    uniform = NegativeSampler(Drawn(ALL_OF_BOB))  # type: ignore[arg-type]
    assert set(uniform.sample_by_user_ids(np.full(101, 2), None, 1).tolist()) == {5, 6}
