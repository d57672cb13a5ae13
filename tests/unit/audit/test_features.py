"""Features of the right items are told from features of other items by the users whom similar items share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_siger.audit import features
from recbole_siger.audit.features import kinship
from tests.toy import tastes


def test_the_nearest_item_and_the_users_in_common_are_those_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BLOCK", 7)  # more than one block, the last one shorter
    table, content = tastes(1)
    unit = content / np.linalg.norm(content, axis=1, keepdims=True)
    common = []
    for item in range(len(table)):
        other = max((j for j in range(len(table)) if j != item), key=lambda j: unit[item] @ unit[j])
        common.append(sum(min(a, b) for a, b in zip(table[item], table[other], strict=True)))
    found = kinship(sp.csr_array(table), content)
    assert found.nearest == pytest.approx(np.mean(common))
    every = (table @ table.T)[~np.eye(len(table), dtype=bool)].mean()
    assert found.random == pytest.approx(every, abs=0.3)
    assert found.deviation > 0


@pytest.mark.parametrize("seed", range(5))
def test_only_features_of_the_right_items_are_clear(seed: int) -> None:
    table, content = tastes(seed)
    exchanged = content[np.random.default_rng(seed).permutation(len(table))]
    assert kinship(sp.csr_array(table), content).clear
    assert not kinship(sp.csr_array(table), exchanged).clear


def test_a_sample_of_items_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "N_CANDIDATES", 90)
    monkeypatch.setattr(features, "N_QUERIES", 40)
    table, content = tastes(1)
    assert kinship(sp.csr_array(table), content).clear
