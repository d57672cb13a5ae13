"""The files of a run folder that scores are made of: what is written is read, what is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_siger.errors import UserError
from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.recommend.ids import IdTable
from recbole_siger.recommend.similar import cosines_of
from recbole_siger.runs.content import Features, StoredGraph, open_graphs, write_graphs
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import Scoring, open_scoring, padded_columns
from recbole_siger.training.use_files import _agrees

HISTORY = ItemLists.from_pairs(np.array([1, 1, 2]), np.array([3, 4, 1]), 3, 5)


def test_sparse_and_dense_item_matrices_score_alike() -> None:
    dense = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)) * (torch.arange(5) % 2)
    rows = sp.csr_matrix(dense.numpy())
    parts = {
        "indptr": torch.from_numpy(rows.indptr.astype(np.int64)),
        "columns": torch.from_numpy(rows.indices),
        "values": torch.from_numpy(rows.data),
    }
    for tensors in ({"matrix": dense}, parts):
        scoring = Scoring("item_item", "X", tensors, 3, 5)
        scores = scoring.scores(torch.tensor([2, 1, 0]), HISTORY)
        assert torch.allclose(scores, torch.stack([dense[1], dense[3] + dense[4], torch.zeros(5)]))
        pairs = scoring.pair_scores(torch.tensor([1, 2, 1]), torch.tensor([1, 1, 3]), HISTORY)
        assert torch.allclose(pairs, torch.stack([scores[1, 1], scores[0, 1], scores[1, 3]]))


def spoilt(*shape: int, value: str = "nan") -> torch.Tensor:
    """Return ones, the last of which is not finite."""
    table = torch.ones(*shape)
    table.view(-1)[-1] = float(value)
    return table


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        (
            "embeddings",
            {"user": torch.ones(3, 2), "item": torch.ones(4, 2)},
            "'item' is not float32 of shape",
        ),
        (
            "embeddings",
            {"user": torch.ones(3, 2), "item": torch.ones(5, 7)},
            "'item' is not float32 of shape",
        ),
        ("embeddings", {"item": torch.ones(5, 2)}, "'user' is not float32 of shape"),
        (
            "embeddings",
            {"user": torch.ones(3, 0), "item": torch.ones(5, 0)},
            r"'user' is not float32 of shape \(3, 1\)",
        ),
        ("embeddings", {"user": torch.ones(()), "item": torch.ones(5, 2)}, "'user' is not float32 of shape"),
        ("embeddings", {"user": spoilt(3, 2), "item": torch.ones(5, 2)}, "a number is NaN or infinite"),
        (
            "embeddings",
            {"user": torch.ones(3, 2), "item": spoilt(5, 2, value="inf")},
            "a number is NaN or infinite",
        ),
        ("item_score", {"score": spoilt(5, value="-inf")}, "a number is NaN or infinite"),
        ("item_item", {"matrix": spoilt(5, 5)}, "a number is NaN or infinite"),
        (
            "item_item",
            {"indptr": torch.tensor([0, 0, 0, 0, 0, 1]), "columns": torch.tensor([2]), "values": spoilt(1)},
            "a number is NaN or infinite",
        ),
        ("item_score", {"score": torch.ones(5).double()}, "'score' is not float32"),
        ("item_item", {"matrix": torch.ones(5, 4)}, "'matrix' is not float32"),
        ("other", {}, "no known kind"),
    ],
)
def test_damaged_embeddings_are_refused(kind: str, tensors: dict, message: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    Scoring(kind, "X", tensors, 3, 5).write(run)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(UserError, match=message):
        open_scoring(run)


def test_scores_of_the_padding_item_have_no_meaning(tmp_path: Path) -> None:
    run, matrix = RunFolder(tmp_path), torch.ones(5, 5)
    matrix[0], matrix[:, 0] = torch.nan, -torch.inf
    for kind, tensors in (("item_score", {"score": matrix[3]}), ("item_item", {"matrix": matrix})):
        Scoring(kind, "X", tensors, 3, 5).write(run)  # type: ignore[arg-type]  # one of the kinds
        assert open_scoring(run).is_finite


def test_a_rule_with_a_number_that_is_not_finite_is_not_stored() -> None:
    """The compared users need not meet the number."""
    scoring = Scoring("item_item", "X", {"matrix": spoilt(5, 5)}, 3, 5)
    users = torch.tensor([2])
    assert not _agrees(scoring, users, scoring.scores(users, HISTORY), HISTORY)


def test_features_are_stored_without_loss_and_as_float16_where_possible(tmp_path: Path) -> None:
    run, wide = RunFolder(tmp_path), torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    graph = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.5]]).to_sparse()
    narrow = wide.half().float()
    stored = [StoredGraph("semantic", "image", graph)]
    Features({"image": wide, "text": narrow}, {"profile": wide[:3]}).write(run)
    write_graphs(run, stored)
    found, (read,) = Features.open(run, 3, 5), open_graphs(run)
    assert [x.dtype for x in found.items.values()] == [torch.float32, torch.float16]
    assert torch.equal(found.items["image"], wide)
    assert torch.equal(found.items["text"].float(), narrow)
    assert torch.equal(found.users["profile"], wide[:3])
    assert (read.kind, read.label) == ("semantic", "image")
    assert torch.equal(read.graph.to_dense(), graph.to_dense())
    with pytest.raises(UserError, match="'image' is not a float table of 7 rows"):
        Features.open(run, 3, 7)


def test_ids_are_text_and_the_padding_is_never_found() -> None:
    table = IdTable(["[PAD]", "7", "b"], "item")
    assert table.find([7, "b"]).tolist() == [1, 2]
    assert table.find("b").tolist() == [2]
    assert table.find(["[PAD]", "b", "c"], "skip").tolist() == [2]
    with pytest.raises(ValueError, match="on_unknown"):
        table.find(["b"], "ignore")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("n_items", [2, 61, 64, 67, 129])
def test_padded_columns_give_the_scores_of_the_table(n_items: int) -> None:
    generator = torch.Generator().manual_seed(7)
    user, item = (torch.randn(n, 5, generator=generator) for n in (3, n_items))
    columns = padded_columns(item)
    assert columns.shape == (5, -(-n_items // 64) * 64)
    assert columns.is_contiguous()
    assert not columns[:, n_items:].any()
    scoring = Scoring("embeddings", "X", {"user": user, "item": item}, 3, n_items)
    scores = scoring.scores(torch.tensor([2, 0]), HISTORY)
    assert torch.allclose(scores, user[[2, 0]] @ item.T, rtol=1e-5, atol=1e-6)
    vectors = torch.nn.functional.normalize(item, dim=1)
    assert torch.allclose(cosines_of(item)(np.array([1])), vectors[[1]] @ vectors.T, rtol=1e-5, atol=1e-6)
