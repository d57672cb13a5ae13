"""One id for one way to evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.config import Config
from recbole_siger.data.fingerprint import protocol_facts
from recbole_siger.evaluation.protocol import protocol_id
from tests.toy import QUIET

DIGESTS = {"train": "a" * 64, "valid": "b" * 64, "test": "c" * 64, "features of text": "d" * 64}


def facts_of(tmp_path: Path, model: str = "BPR", digests: Any = DIGESTS, **values: Any) -> dict[str, Any]:
    given = {"benchmark_filename": ["train", "valid", "test"], **QUIET, "data_path": str(tmp_path), **values}
    return protocol_facts(Config(model, "toy", config_dict=given), digests)


def test_the_id_is_a_hash_of_canonical_json() -> None:
    """Held by value: ids in published results must not change unseen."""
    assert protocol_id({"b": [1, "é"], "a": None}) == "a44633ba036df252"


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("LightGCN", {}),
        ("SIGER", {"learning_rate": 0.5}),
        ("EASE", {}),  # draws no negatives
        ("BPR", {"seed": 8}),
        (
            "BPR",
            {
                "epochs": 3,
                "stopping_step": 1,
                "topk": [20, 10],
                "metrics": ["ndcg", "HIT", "Recall", "precision"],
            },
        ),
    ],
)
def test_neither_model_nor_seed_nor_training_changes_it(
    tmp_path: Path, model: str, values: dict[str, Any]
) -> None:
    assert facts_of(tmp_path, model, **values) == facts_of(tmp_path)


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("masked", {"protocol": "mmrec", "train_negatives": "all"}),
    ("metrics", {"metrics": ["Recall", "NDCG"]}),
    ("topk", {"topk": [5, 20]}),
    ("train_negatives", {"train_negatives": "train_items"}),
    ("train_negatives", {"train_neg_sample_args": {"distribution": "popularity"}}),
    ("seed_policy", {"benchmark_filename": None}),
    ("cold_start", {"cold_start": {"kind": "user", "max_train": 3}}),
    ("candidates", {"cold_start": {"kind": "item", "candidates": "cold"}}),
    ("mode", {"eval_args": {"mode": "uni100"}}),
    ("split", {"digests": {**DIGESTS, "test": "e" * 64}}),
]


@pytest.mark.parametrize(("fact", "values"), CHANGES)
def test_what_changes_the_evaluation_changes_the_id(
    tmp_path: Path, fact: str, values: dict[str, Any]
) -> None:
    before, after = facts_of(tmp_path), facts_of(tmp_path, **values)
    assert before.get(fact) != after.get(fact)
    assert protocol_id(before) != protocol_id(after)
    assert json.loads(json.dumps(after)) == after


def test_features_are_no_part_of_it(tmp_path: Path) -> None:
    assert facts_of(tmp_path, digests={**DIGESTS, "features of text": "f" * 64}) == facts_of(tmp_path)


def test_the_facts_are_for_people(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, protocol="mmrec", cold_start={"kind": "item_few_shot", "max_train": 4})
    assert facts == {
        "split": {part: DIGESTS[part] for part in ("train", "valid", "test")},
        "masked": {"valid": ["train"], "test": ["train"]},
        "candidates": "all",
        "users": "with an item to find and a training row",
        "metrics": ["hit", "ndcg", "precision", "recall"],
        "topk": [10, 20],
        "train_negatives": "train_items",
        "seed_policy": "the seed draws the run",
        "cold_start": {"kind": "item_few_shot", "max_train": 4, "candidates": "all"},
    }
