"""Ranked lists in blocks, and the order of equal scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_siger.evaluation.ranking import top_k_by_id
from recbole_siger.recommend import ranking
from recbole_siger.recommend.ranking import join, rank_blocks


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 17), levels=st.integers(1, 400))
def test_equal_scores_are_ordered_by_item_id(seed: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-levels, levels + 1, (13, 1187), generator=generator)
    scores = whole / 7
    scores[:, ::2] = torch.where(whole[:, ::2] == 0, -0.0, scores[:, ::2])  # equal to the other zeros
    scores[3, : 1187 - k // 2] = -torch.inf
    want = torch.sort(-scores, dim=1, stable=True).indices[:, :k]
    assert torch.equal(top_k_by_id(scores, k), want)


@pytest.mark.parametrize("block", [4, 4 * 31 * 3, 2**20])
@pytest.mark.parametrize("some", [False, True])
def test_blocks_of_any_size_give_the_same_lists(
    block: int, some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block)
    table = torch.randn(7, 31, generator=torch.Generator().manual_seed(5))
    hidden = {0: [3, 4], 2: list(range(1, 29)), 5: list(range(1, 31))}
    candidates = np.array([1, 2, 3, 29, 30]) if some else None

    def hide(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [(place, item) for place, row in enumerate(rows) for item in hidden.get(row, [])]
        return tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)  # type: ignore[return-value]  # two

    rows, items, scores = join(
        rank_blocks(7, 31, lambda rows: table[torch.from_numpy(rows)].clone(), hide, 4, candidates)
    )
    for row in range(7):
        free = [
            i for i in (range(1, 31) if candidates is None else candidates) if i not in hidden.get(row, [])
        ]
        want = sorted(free, key=lambda i: -float(table[row, i]))[:4]
        assert items[rows == row].tolist() == want
        assert scores[rows == row].tolist() == [float(table[row, i]) for i in want]
