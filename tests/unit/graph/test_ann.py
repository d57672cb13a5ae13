from __future__ import annotations

import logging
import sys

import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.graph import ann, cosine
from recbole_siger.graph.knn import semantic_graph

pytest.importorskip("faiss", reason="the extra ann is not installed")


def features(n_items: int = 2003) -> torch.Tensor:
    """Rows near a plane of few dimensions, as real features are, with zero rows and duplicates."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n_items, 11, generator=generator) @ torch.randn(11, 37, generator=generator)
    x += 0.1 * torch.randn(x.shape, generator=generator)
    x[[0, 7]] = 0
    x[100:160] = x[100]
    return x


def test_nearly_all_edges_are_found_and_their_weights_are_exact(caplog):
    with caplog.at_level(logging.INFO):
        found = semantic_graph(features(), 10, method="ann").to_dense()
    exact = semantic_graph(features(), 10).to_dense()
    both = (found > 0) & (exact > 0)
    assert both.sum() >= 0.995 * (exact > 0).sum()
    assert torch.equal(found[both], exact[both])
    assert (found > 0).sum(dim=1).unique().tolist() == [0, 10]
    assert "knn_method=ann: recall@9" in caplog.text


def test_ties_go_to_the_lower_id():
    x = torch.eye(5).repeat_interleave(3, dim=0)
    found = semantic_graph(x, 3, method="ann")
    exact = semantic_graph(x, 3)
    assert torch.equal(found.indices(), exact.indices())
    assert torch.equal(found.values(), exact.values())


@pytest.mark.parametrize("n_items", [2, 3, 29])
def test_few_items(n_items):
    x = features()[1 : 1 + n_items]
    assert torch.equal(semantic_graph(x, 10, method="ann").indices(), semantic_graph(x, 10).indices())


def test_a_low_recall_is_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(ann, "BEAMS", (1,))
    monkeypatch.setattr(ann, "N_LINKS", 2)
    monkeypatch.setattr(ann, "BUILD_BEAM", 2)
    x = torch.randn(3001, 61, generator=torch.Generator().manual_seed(5))
    with caplog.at_level(logging.INFO):
        found = semantic_graph(x, 3, method="ann").to_dense()
    assert [record.levelname for record in caplog.records if "recall@2" in record.message] == ["WARNING"]
    told = float(caplog.text.split("recall@2 ")[1].split()[0])
    exact = semantic_graph(x, 3).to_dense()
    others = ~torch.eye(3001, dtype=torch.bool)
    true = ((found > 0) & (exact > 0) & others).sum() / ((exact > 0) & others).sum()
    assert told == pytest.approx(float(true), abs=0.1)
    assert true < 0.9


def test_the_sampled_truth_is_the_exact_graphs():
    rows = cosine.UnitRows(features(211))
    rows = rows[rows.duplicates(5)[0]]
    sample = torch.tensor([0, 3, 150])
    cosines = rows.cosines(*torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(rows))).T)
    cosines = cosines.view(len(rows), len(rows)).fill_diagonal_(-(2**31))
    assert ann._kth_cosine(rows, sample, 4).tolist() == cosines.topk(4).values[sample, -1].tolist()


def test_without_faiss_the_mend_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'recbole-siger\[ann\]'"):
        semantic_graph(features(), 3, method="ann")
