"""Batches of users, what is hidden from them and what they should find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.sampler import Sampler
from recbole.utils import InputType, init_seed

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loaders import FullRankingDataLoader, TrainLoader
from recbole_siger.data.sampler import NegativeSampler
from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.parallel.shares import Share
from recbole_siger.training.settings import run_settings
from tests.toy import write_dataset, write_toy

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


def test_a_batch_holds_no_more_scores_than_fit(splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (train, _, test) = splits
    monkeypatch.setattr("recbole_siger.data.loaders._BLOCK", {"cpu": 4 * test.item_num})
    found, sizes = read(FullRankingDataLoader(config, test, [lists(train)]), test)
    assert sizes == [1, 1, 1]
    assert set(found) == {"ann", "cid", "dan"}


def test_each_process_ranks_a_batch(splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (train, _, test) = splits
    config["eval_batch_size"] = 1024
    monkeypatch.setattr("recbole_siger.data.loaders.current_share", lambda: Share(1, 2))
    assert read(FullRankingDataLoader(config, test, [lists(train)]), test)[1] == [1]


def test_batches_of_an_evaluation_are_moved_once(splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (train, valid, test) = splits
    expected, sizes = read(FullRankingDataLoader(config, test, [lists(train), lists(valid)]), test)
    monkeypatch.setattr(FullRankingDataLoader, "moves_ahead", True)
    loader = FullRankingDataLoader(config, test, [lists(train), lists(valid)])
    assert read(loader, test) == (expected, sizes)
    assert all(one is other for one, other in zip(loader, loader, strict=True))
    monkeypatch.setattr("recbole_siger.data.loaders._PAIRS_KEPT", 3)  # too many pairs to keep
    loader = FullRankingDataLoader(config, test, [lists(train), lists(valid)])
    assert read(loader, test) == read(loader, test) == (expected, sizes)
    assert not any(one is other for one, other in zip(loader, loader, strict=True))


# ---- training


@pytest.mark.parametrize("item_fields", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("input_type", "negatives"),
    [
        (InputType.PAIRWISE, {}),
        (InputType.PAIRWISE, {"sample_num": 3}),
        (InputType.PAIRWISE, {"distribution": "popularity", "alpha": 0.5}),
        (InputType.POINTWISE, {"sample_num": 2}),
        (InputType.PAIRWISE, {"distribution": "none", "sample_num": "none"}),
    ],
)
def test_batches_are_recboles(
    input_type: InputType, negatives: dict[str, Any], shuffle: bool, item_fields: bool, tmp_path: Path
) -> None:
    """Two epochs give the same rows and negatives, and leave every random stream where RecBole leaves it."""
    folder, load_col = write_toy(tmp_path), {"inter": ["user_id", "item_id"]}
    if item_fields:
        rows = "".join(f"i{item}\t{item / 7}\n" for item in range(31))
        (folder / "toy.item").write_text("item_id:token\tprice:float\n" + rows)
        load_col["item"] = ["item_id", "price"]
    values = {"data_path": str(tmp_path), "gpu_id": "", "train_batch_size": 12, "load_col": load_col}
    config = Config("BPR", "toy", config_dict=values)
    config["MODEL_INPUT_TYPE"] = input_type
    train = MultimodalDataset(config).build()[0]  # first: BPR without negatives is refused
    config["train_neg_sample_args"] = {**config["train_neg_sample_args"], **negatives}
    distribution, alpha = (config["train_neg_sample_args"][key] for key in ("distribution", "alpha"))
    epochs = []
    for loader_class, sampler in (
        (TrainLoader, NegativeSampler(train, distribution, alpha)),
        (TrainDataLoader, Sampler(["train"], [train], distribution, alpha).set_phase("train")),
    ):
        loader = loader_class(config, train, sampler, shuffle=shuffle)
        with run_settings(config):  # init_seed sets switches of the process
            init_seed(7, True)
        batches = [dict(batch.interaction) for _ in range(2) for batch in loader]
        state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002  # RecBole's stream
        epochs.append((batches, len(loader), loader.generator.get_state(), torch.tensor(state["pos"])))
    (ours, n_ours, *random_ours), (theirs, n_theirs, *random_theirs) = epochs
    assert n_ours == n_theirs == len(ours) / 2 == len(theirs) / 2
    assert all(torch.equal(a, b) for a, b in zip(random_ours, random_theirs, strict=True))
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[key], yours[key]) for key in mine)


def test_batches_that_are_moved_together_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a GPU, batches are made a few at a time; no draw and no random stream differs."""
    write_toy(tmp_path)
    values = {"data_path": str(tmp_path), "gpu_id": "", "train_batch_size": 12}
    config = Config("BPR", "toy", config_dict=values)
    train = MultimodalDataset(config).build()[0]
    monkeypatch.setattr("recbole_siger.data.loaders._ROWS_A_MOVE", 3 * 12)
    epochs = []
    for is_ahead in (False, True):
        monkeypatch.setattr(TrainLoader, "moves_ahead", is_ahead)
        loader = TrainLoader(config, train, NegativeSampler(train), shuffle=True)
        with run_settings(config):
            init_seed(7, True)
        batches = [dict(batch.interaction) for _ in range(2) for batch in loader]
        epochs.append((batches, loader.generator.get_state(), np.random.random()))  # noqa: NPY002
    (one, *random_one), (other, *random_other) = epochs
    assert len(one) == len(other) > 2 * 3
    assert torch.equal(random_one[0], random_other[0])
    assert random_one[1] == random_other[1]
    for mine, yours in zip(one, other, strict=True):
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[key], yours[key]) for key in mine)


def test_worker_processes_are_left_to_torch(tmp_path: Path) -> None:
    write_toy(tmp_path)
    config = Config("BPR", "toy", config_dict={"data_path": str(tmp_path), "gpu_id": "", "worker": 1})
    train = MultimodalDataset(config).build()[0]
    rows = sum(len(batch) for batch in TrainLoader(config, train, NegativeSampler(train), shuffle=True))
    assert rows == len(train)
