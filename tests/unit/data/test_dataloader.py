"""Batches of users, what is hidden from them and what they should find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.config import Config
from recbole_siger.data.dataloader import FullRankingDataLoader
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.evaluation.ranking import ItemLists
from tests.toy import write_dataset

SPLITS = {
    "train": [("ann", "x"), ("ann", "y"), ("bob", "z"), ("cid", "x")],
    "valid": [("bob", "x"), ("ann", "z")],
    "test": [("cid", "w"), ("ann", "w"), ("ann", "v"), ("ann", "x"), ("dan", "y")],
}


@pytest.fixture
def splits(tmp_path: Path) -> Any:
    write_dataset(tmp_path, "toy", SPLITS)
    values = {"data_path": str(tmp_path), "gpu_id": "", "eval_batch_size": 2}
    config = Config("BPR", "toy", config_dict=values)
    return config, MultimodalDataset(config).build()


def lists(split: MultimodalDataset) -> ItemLists:
    users, items = split.train_edges.numpy()
    return ItemLists.from_pairs(users, items, split.user_num, split.item_num)


def read(loader: FullRankingDataLoader, dataset: MultimodalDataset) -> tuple[dict[str, Any], list[int]]:
    """Collect ``{user: (hidden items, items to find)}`` by token, and the size of each batch."""
    found: dict[str, Any] = {}
    sizes = []
    for interaction, (hidden_row, hidden_item), row, item in loader:
        users = [dataset.user_tokens[u] for u in interaction[dataset.uid_field].tolist()]
        sizes.append(len(users))
        for index, user in enumerate(users):
            assert user not in found
            found[user] = tuple(
                {dataset.item_tokens[i] for i in items[rows == index].tolist()}
                for rows, items in ((hidden_row, hidden_item), (row, item))
            )
    return found, sizes


def test_batches_hide_what_was_seen_and_never_what_is_to_be_found(splits: Any) -> None:
    config, (train, valid, test) = splits
    loader = FullRankingDataLoader(config, test, [lists(train), lists(valid)])
    found, sizes = read(loader, test)
    assert found == {
        "ann": ({"y", "z"}, {"w", "v", "x"}),  # x was seen in training, and is to be found
        "cid": ({"x"}, {"w"}),
        "dan": (set(), {"y"}),
    }
    assert sizes == [2, 1]  # eval_batch_size counts users
    assert len(loader) == 2


def test_only_the_named_users_and_lists(splits: Any) -> None:
    config, (train, _, test) = splits
    users = lists(train).users
    found, _ = read(FullRankingDataLoader(config, test, [lists(train)], users), test)
    assert found == {"ann": ({"y"}, {"w", "v", "x"}), "cid": ({"x"}, {"w"})}


def test_users_who_have_nothing_to_find_are_left_out(splits: Any) -> None:
    config, (train, valid, _) = splits
    found, _ = read(FullRankingDataLoader(config, valid, [lists(train)], lists(train).users), valid)
    assert found == {"ann": ({"x", "y"}, {"z"}), "bob": ({"z"}, {"x"})}


def test_tensors_index_the_scores(splits: Any) -> None:
    config, (train, _, test) = splits
    for interaction, hidden, row, item in FullRankingDataLoader(config, test, [lists(train)]):
        scores = torch.zeros(len(interaction), test.item_num)
        scores[hidden] = 1
        scores[row, item] += 2
        assert set(scores.unique().tolist()) <= {0.0, 1.0, 2.0}  # never 3: hidden and to be found
        assert row.dtype == item.dtype == torch.int64
