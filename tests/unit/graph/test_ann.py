from __future__ import annotations

import logging
import sys

import pytest
import torch

from recbole_siger.graph import ann, cosine
from recbole_siger.graph.knn import semantic_graph


@pytest.fixture(autouse=True)
def lists_for_few_rows(monkeypatch):
    monkeypatch.setattr(ann, "EXACT_BELOW", 0)


def features(n_items: int = 1009) -> torch.Tensor:
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
    monkeypatch.setattr(ann, "MOST_COMPARED", 101)
    x = torch.randn(1511, 61, generator=torch.Generator().manual_seed(5))
    with caplog.at_level(logging.INFO):
        found = semantic_graph(x, 3, method="ann").to_dense()
    assert [record.levelname for record in caplog.records if "recall@2" in record.message] == ["WARNING"]
    assert "use knn_method=exact" in caplog.text
    told = float(caplog.text.split("recall@2 ")[1].split()[0])
    exact = semantic_graph(x, 3).to_dense()
    others = ~torch.eye(1511, dtype=torch.bool)
    true = ((found > 0) & (exact > 0) & others).sum() / ((exact > 0) & others).sum()
    assert told == pytest.approx(float(true), abs=0.1)
    assert true < 0.9


def test_the_effort_rises_until_the_measured_recall_is_reached(monkeypatch, caplog):
    monkeypatch.setattr(ann, "PLANNED", 0.5)
    with caplog.at_level(logging.INFO):
        found = semantic_graph(features(), 10, method="ann").to_dense()
    assert [record.levelname for record in caplog.records if "recall@9" in record.message] == ["INFO"]
    exact = semantic_graph(features(), 10).to_dense()
    assert ((found > 0) & (exact > 0)).sum() >= 0.985 * (exact > 0).sum()


def test_one_input_has_one_result():
    first, again = (semantic_graph(features(), 10, method="ann") for _ in range(2))
    assert torch.equal(first.indices(), again.indices())
    assert torch.equal(first.values(), again.values())


@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_as_many_coordinates_as_the_neighbours_need(spread, monkeypatch):
    """Three axes have nearly everything, but with a small spread the others decide who is near."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1009, 37, generator=generator)
    x[:, :3] += 10 * torch.randint(-1, 2, (1009, 3), generator=generator)
    x[:, 3:] *= spread
    monkeypatch.setattr(ann, "WIDTHS", (3, 7))
    rows = cosine.UnitRows(x)
    sample = torch.arange(0, 1009, 7)
    truth = ann._true_neighbours(rows, sample, 4).place
    assert ann._table(rows, sample, truth, 4).width == {0.01: 3, 1.0: 37}[spread]


def test_few_bits_and_many_bits_propose_alike(monkeypatch):
    graphs = []
    for fast in (False, True):
        monkeypatch.setattr("recbole_siger.graph.nearest.has_fast_bfloat16", lambda device, fast=fast: fast)
        graphs.append(semantic_graph(features(), 10, method="ann").to_dense() > 0)
    assert (graphs[0] & graphs[1]).sum() >= 0.985 * graphs[0].sum()


def test_fewer_rows_than_the_bound_are_all_compared(monkeypatch, caplog):
    monkeypatch.setattr(ann, "EXACT_BELOW", 1013)
    with caplog.at_level(logging.INFO):
        found, exact = semantic_graph(features(), 10, method="ann"), semantic_graph(features(), 10)
    assert torch.equal(found.indices(), exact.indices())
    assert "all pairs are compared" in caplog.text


def test_the_sampled_truth_is_the_exact_graphs():
    rows = cosine.UnitRows(features(211))
    rows = rows[rows.duplicates(5)[0]]
    sample = torch.tensor([0, 3, 150])
    cosines = rows.cosines(*torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(rows))).T)
    cosines = cosines.view(len(rows), len(rows)).fill_diagonal_(-(2**31))
    found = ann._true_neighbours(rows, sample, 4)
    assert found.step.tolist() == cosines.topk(4).values[sample].tolist()
    assert cosines[sample].gather(1, found.place).tolist() == found.step.tolist()


def test_faiss_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert len(semantic_graph(features(), 3, method="ann").values())
