"""The two protocols on one set of scores, worked out by hand, and against RecBole's own evaluation."""

from __future__ import annotations

from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import data_preparation
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.trainer import Trainer
from recbole.utils import InputType, init_seed
from torch import Tensor, nn

from recbole_siger.common import processor
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.errors import UserError
from recbole_siger.training.settings import run_settings
from recbole_siger.training.trainer import build_trainer
from tests.toy import QUIET, random_splits, write_dataset

# Ann's validation item c is ranked above her test items; Cid has no training row; nobody trains on e or f.
HAND_MADE = {
    "train": [("ann", "a"), ("ann", "b"), ("bob", "b"), ("bob", "c"), ("bob", "d")],
    "valid": [("ann", "c"), ("bob", "a"), ("cid", "d")],
    "test": [("ann", "d"), ("ann", "e"), ("bob", "e"), ("cid", "c"), ("cid", "f")],
}
SCORES = {
    "ann": {"c": 0.9, "e": 0.8, "f": 0.7, "d": 0.6, "a": 0.5, "b": 0.4},
    "bob": {"b": 0.95, "f": 0.9, "a": 0.8, "e": 0.7, "c": 0.2, "d": 0.1},
    "cid": {"b": 0.9, "c": 0.8, "a": 0.7, "d": 0.6, "e": 0.5, "f": 0.4},
}

SECOND = 1 / log2(3)  # the discount of rank 2; that of rank 1 is 1

EXPECTED = {
    # Training items hidden:
    #   ann: c e f d, finds c at 1:    recall@2 1, NDCG@2 1
    #   bob: f a e, finds a at 2:      recall@2 1, NDCG@2 SECOND
    #   cid: b c a d e f, finds d at 4: 0, 0; without a training row, hence absent under mmrec
    ("mmrec", "valid"): {"recall@2": 1.0, "ndcg@2": (1 + SECOND) / 2},
    ("recbole", "valid"): {"recall@2": 2 / 3, "ndcg@2": (1 + SECOND + 0) / 3},
    # Training items hidden, validation items not:
    #   ann: c e f d, finds e at 2, d at 4: recall@2 1/2, NDCG@2 SECOND / (1 + SECOND)
    #   bob: f a e, finds e at 3:           0, 0
    ("mmrec", "test"): {"recall@2": 1 / 4, "ndcg@2": SECOND / (1 + SECOND) / 2},
    # Training and validation items hidden:
    #   ann: e f d, finds e at 1, d at 3:   recall@2 1/2, NDCG@2 1 / (1 + SECOND)
    #   bob: f e, finds e at 2:             1, SECOND
    #   cid: b c a e f, finds c at 2, f at 5: 1/2, SECOND / (1 + SECOND)
    ("recbole", "test"): {
        "recall@2": (1 / 2 + 1 + 1 / 2) / 3,
        "ndcg@2": (1 / (1 + SECOND) + SECOND + SECOND / (1 + SECOND)) / 3,
    },
}


class Scorer(GeneralRecommender):
    """A model that has nothing to learn: ``scores`` is ``(n_users, n_items)``."""

    input_type = InputType.PAIRWISE

    def __init__(self, config: Config, dataset: MultimodalDataset, scores: Tensor) -> None:
        super().__init__(config, dataset)
        self.scores = scores
        self.weight = nn.Parameter(torch.zeros(1))  # an optimizer wants one

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self.scores[interaction[self.USER_ID]].clone()

    def predict(self, interaction: Any) -> Tensor:
        return self.scores[interaction[self.USER_ID], interaction[self.ITEM_ID]]


def build(root: Path, **values: Any) -> tuple[Config, MultimodalDataset]:
    config = Config("BPR", "toy", config_dict={**QUIET, "data_path": str(root), **values})
    config["checkpoint_dir"] = str(root)
    return config, MultimodalDataset(config)


@pytest.mark.parametrize("eval_batch_size", [1, 2, 1024])
@pytest.mark.parametrize(("protocol", "phase"), EXPECTED)
def test_the_hand_made_case(
    protocol: str, phase: str, eval_batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path, "toy", HAND_MADE)
    evaluation = {
        "metrics": ["Recall", "NDCG"],
        "topk": [2],
        "valid_metric": "Recall@2",
        "eval_batch_size": eval_batch_size,
    }
    config, dataset = build(tmp_path, protocol=protocol, metric_decimal_place=16, **evaluation)
    train, valid, test = split_and_load(config, dataset)
    scores = torch.full((dataset.user_num, dataset.item_num), 9.0)  # the padding would win
    for user, row in SCORES.items():
        for item, score in row.items():
            scores[dataset.user_tokens.index(user), dataset.item_tokens.index(item)] = score
    trainer = build_trainer(config, Scorer(config, train._dataset, scores), None)
    result = trainer.evaluate(valid if phase == "valid" else test, load_best_model=False)
    assert result == pytest.approx(EXPECTED[protocol, phase], rel=1e-12)


def test_scores_are_products_of_the_fastest_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path, "toy", HAND_MADE)
    config, dataset = build(tmp_path, metrics=["Recall"], topk=[2], valid_metric="Recall@2")
    train, _, test = split_and_load(config, dataset)
    inside: list[bool] = []

    class Noting(Scorer):
        def full_sort_predict(self, interaction: Any) -> Tensor:
            inside.append(processor._inside.get())
            return super().full_sort_predict(interaction)

    model = Noting(config, train._dataset, torch.rand(dataset.user_num, dataset.item_num))
    for expected in (True, False):
        monkeypatch.setattr(processor, "_onednn_is_faster", lambda fast=expected: fast)
        build_trainer(config, model, None).evaluate(test, load_best_model=False)
        assert set(inside) == {expected and hasattr(torch.backends.mkldnn, "matmul")}
        inside.clear()


RANKING = ["Recall", "NDCG", "Hit", "Precision", "MRR", "MAP"]


@pytest.mark.parametrize(
    ("metrics", "topk"),
    [
        (RANKING, [1, 3, 10]),
        ([*RANKING, "GAUC"], [5]),
        (["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"], [4]),
    ],
)
@pytest.mark.parametrize("phase", ["valid", "test"])
@pytest.mark.parametrize("repeatable", [False, True])
def test_protocol_recbole_is_recboles_own_evaluation(
    metrics: list[str],
    topk: list[int],
    phase: str,
    repeatable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ``repeatable`` training items are candidates."""
    monkeypatch.chdir(tmp_path)
    splits = random_splits()
    splits["train"] = [pair for pair in splits["train"] if pair[0] != "u4"]  # a user without a training row
    splits["test"] = [pair for pair in splits["test"] if pair[0] != "u9"]  # and one without a test row
    splits["test"] += splits["train"][:5]  # seen in training, and to be found again
    write_dataset(tmp_path, "toy", splits)
    values = {
        "protocol": "recbole",
        "metrics": metrics,
        "topk": topk,
        "valid_metric": f"{metrics[0]}@{topk[0]}",
        "repeatable": repeatable,
    }
    config, dataset = build(tmp_path, eval_batch_size=7, metric_decimal_place=12, **values)
    scores = torch.rand(dataset.user_num, dataset.item_num, generator=torch.Generator().manual_seed(11))

    train, *loaders = split_and_load(config, dataset)
    ours = build_trainer(config, Scorer(config, train._dataset, scores), None)
    ours.eval_collector.data_collect(train)
    found = ours.evaluate(loaders[phase == "test"], load_best_model=False)

    config, dataset = build(tmp_path, eval_batch_size=7, metric_decimal_place=12, **values)
    train, *loaders = data_preparation(config, dataset)
    theirs = Trainer(config, Scorer(config, train._dataset, scores))
    theirs.eval_collector.data_collect(train)
    expected = theirs.evaluate(loaders[phase == "test"], load_best_model=False)

    assert found == dict(expected)
    assert any(0 < value < 1 for value in found.values())


@pytest.mark.parametrize("ties", [False, True])
def test_real_rankings_have_recboles_metrics_to_the_last_bit(
    ties: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ml-100k has items enough for the grouped search of the best; with ties torch's choice decides."""
    monkeypatch.chdir(tmp_path)
    values = {
        **QUIET,
        "metrics": RANKING,
        "topk": [3, 20],
        "valid_metric": "MAP@20",
        "metric_decimal_place": 16,
    }
    found = []
    for prepare, users in ((split_and_load, 1024), (data_preparation, 100 * 1683)):
        config = Config("BPR", "ml-100k", config_dict={**values, "eval_batch_size": users})
        config["checkpoint_dir"] = str(tmp_path)
        dataset = MultimodalDataset(config)
        with run_settings(config):  # init_seed sets switches of the process
            init_seed(3, True)  # the split is drawn
            train, _, test = prepare(config, dataset)
        shape, generator = (dataset.user_num, dataset.item_num), torch.Generator().manual_seed(3)
        scores = torch.randint(0, 40, shape, generator=generator).float()
        if not ties:
            scores = torch.rand(shape, generator=generator)
        model = Scorer(config, train._dataset, scores)
        trainer = build_trainer(config, model, None) if prepare is split_and_load else Trainer(config, model)
        found.append(trainer.evaluate(test, load_best_model=False))
    assert found[0] == dict(found[1])
    assert all(0 < value < 1 for value in found[0].values())


# ---- negatives


@pytest.mark.parametrize(
    ("values", "from_training"),
    [
        ({"protocol": "mmrec"}, True),
        ({"protocol": "recbole"}, False),
        ({"protocol": "mmrec", "train_negatives": "all"}, False),
        ({"protocol": "recbole", "train_negatives": "train_items"}, True),
    ],
)
def test_where_negatives_come_from(values: dict[str, Any], from_training: bool, tmp_path: Path) -> None:
    splits = random_splits()
    never = {f"i{item}" for item in range(5)}
    splits["train"] = [pair for pair in splits["train"] if pair[1] not in never]
    write_dataset(tmp_path, "toy", splits)
    config, dataset = build(tmp_path, **values)
    train, _, _ = split_and_load(config, dataset)
    drawn = set()
    for _ in range(30):
        for batch in train:
            users, items = batch["user_id"].tolist(), batch["neg_item_id"].tolist()
            drawn |= {
                (dataset.user_tokens[u], dataset.item_tokens[i]) for u, i in zip(users, items, strict=True)
            }
    known = {pair[1] for split in splits.values() for pair in split}
    allowed = {pair[1] for pair in splits["train"]} if from_training else known
    assert {item for _, item in drawn} == allowed
    assert allowed & never == (set() if from_training else never & known)
    assert not drawn & set(splits["train"])


def test_a_user_with_every_training_item_leaves_no_negative(tmp_path: Path) -> None:
    write_dataset(tmp_path, "toy", {**HAND_MADE, "train": [*HAND_MADE["train"], ("ann", "c"), ("ann", "d")]})
    config, dataset = build(tmp_path, protocol="mmrec")
    with pytest.raises(UserError, match="user 'ann' has all 4 training items"):
        split_and_load(config, dataset)


def test_sampled_evaluation_is_refused_under_mmrec(tmp_path: Path) -> None:
    write_dataset(tmp_path, "toy", random_splits())
    config, dataset = build(tmp_path, protocol="mmrec", eval_args={"mode": "uni5"})
    with pytest.raises(UserError, match="protocol mmrec ranks all items; use `full`"):
        split_and_load(config, dataset)


def test_sampled_evaluation_is_recboles_under_recbole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path, "toy", random_splits())
    config, dataset = build(tmp_path, protocol="recbole", eval_args={"mode": "uni5"})
    _, valid, test = split_and_load(config, dataset)
    for loader in (valid, test):
        rows = sum(len(interaction) for interaction, *_ in loader)
        assert rows == 23 * 2 * (1 + 5)  # users, items of each to find, and the five drawn beside every one


def test_a_repeated_row_counts_once_among_sampled_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    splits = random_splits()
    splits["test"] += splits["test"][::3]
    write_dataset(tmp_path, "toy", splits)
    values = {
        "metrics": RANKING,
        "topk": [2, 5],
        "valid_metric": "MAP@5",
        "metric_decimal_place": 12,
    }
    config, dataset = build(tmp_path, protocol="recbole", eval_args={"mode": "uni5"}, **values)
    train, _, test = split_and_load(config, dataset)
    scores = torch.rand(dataset.user_num, dataset.item_num, generator=torch.Generator().manual_seed(11))
    model = Scorer(config, train._dataset, scores)
    found = []
    for trainer in (build_trainer(config, model, None), Trainer(config, model)):
        trainer.eval_collector.data_collect(train)
        with run_settings(config):
            init_seed(3, True)  # the candidates are drawn
            found.append(dict(trainer.evaluate(test, load_best_model=False)))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("values", "rules"),
    [({"protocol": "mmrec"}, "protocol mmrec"), ({"cold_start": {"kind": "item"}}, "cold_start")],
)
def test_repeatable_is_refused_where_training_items_are_hidden(
    values: dict[str, Any], rules: str, tmp_path: Path
) -> None:
    write_dataset(tmp_path, "toy", random_splits())
    config, dataset = build(tmp_path, **{"protocol": "recbole", "repeatable": True, **values})
    with pytest.raises(
        UserError, match=f"^config_dict: repeatable=True ranks training items too, and {rules}"
    ):
        split_and_load(config, dataset)


def test_a_user_who_has_seen_every_item_is_told(tmp_path: Path) -> None:
    seen = [("bob", item) for item in "abcdef" if ("bob", item) not in HAND_MADE["train"]]
    write_dataset(tmp_path, "toy", {**HAND_MADE, "train": [*HAND_MADE["train"], *seen]})
    config, dataset = build(tmp_path, protocol="recbole")
    with pytest.raises(UserError, match="interacted with all items"):
        split_and_load(config, dataset)
