from __future__ import annotations

import pytest
import torch

from recbole_siger.model.batch import batch_rows
from recbole_siger.model.loss import anchor_info_nce, info_nce

USER, POS, NEG = torch.tensor([[3, 1, 3, 7, 5], [2, 2, 9, 4, 1], [6, 2, 6, 8, 9]])


@pytest.mark.parametrize("negatives", ["batch", "full"])
def test_positions_find_the_given_ids(negatives):
    rows = batch_rows(POS, NEG, n_rows=11, negatives=negatives)
    table = torch.arange(11)
    for ids, position in zip((POS, NEG), rows.positions, strict=True):
        assert torch.equal(rows.of(table)[position], ids)


def test_the_batch_contrasts_its_distinct_rows():
    table, other, anchor = torch.randn(3, 11, 5).unbind()
    rows, distinct = batch_rows(POS, NEG, n_rows=11, negatives="batch"), torch.tensor([1, 2, 4, 9])
    a, b, c = map(rows.of, (table, other, anchor))
    assert torch.equal(rows.contrast(a, b, 0.2), info_nce(table[distinct], other[distinct], 0.2))
    assert torch.equal(
        rows.contrast(rows.keys_of(table), rows.keys_of(other), 0.2),
        rows.contrast(a, b, 0.2),
    )
    assert torch.equal(
        rows.contrast(a, b, 0.2, c),
        anchor_info_nce(table[distinct], other[distinct], anchor[distinct], 0.2),
    )


def test_full_contrast_takes_every_row_but_the_padding_as_a_key():
    table, other, anchor = torch.randn(3, 11, 5).unbind()
    rows, distinct = batch_rows(USER, n_rows=11, negatives="full"), torch.tensor([1, 3, 5, 7])
    a, b, c = map(rows.of, (table, other, anchor))
    options = {"target": distinct - 1}
    expected = info_nce(table[distinct], other[1:], 0.2, **options)
    assert torch.equal(rows.contrast(a, b, 0.2), expected)
    expected = anchor_info_nce(table[distinct], other[1:], anchor[distinct], 0.2, **options)
    assert torch.equal(rows.contrast(a, b, 0.2, c), expected)


def test_unknown_negatives_are_refused():
    with pytest.raises(ValueError, match="'batch' or 'full', got 'all'"):
        batch_rows(USER, n_rows=11, negatives="all")
