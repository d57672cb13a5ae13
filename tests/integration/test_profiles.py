"""Histories come from the split that a run trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_siger.config import Config
from recbole_siger.profiles.history import Split
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment


def pairs_of(part: Any, whole: Any) -> set[tuple[str, str]]:
    """Return the raw tokens of a part's rows."""
    users, items = (part.inter_feat[field].tolist() for field in ("user_id", "item_id"))
    return {(whole.user_tokens[u], whole.item_tokens[i]) for u, i in zip(users, items, strict=True)}


def trained_pairs(split: Split) -> set[tuple[str, str]]:
    return {(user, item) for user, items in split.histories.items() for item in items}


@pytest.mark.parametrize("seed", [5, 6])
def test_a_drawn_split_is_the_one_of_the_run(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    rng = np.random.default_rng(seed=1)
    # With times, which the run does not load: they order histories and leave the split as it is.
    rows = [f"u{user}\ti{item}\t{item}" for user in range(19) for item in rng.permutation(29)[:13]]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "shop.inter").write_text("\n".join([header, *rows]) + "\n")
    values = {"data_path": str(tmp_path), "seed": str(seed), "gpu_id": ""}
    experiment = build_experiment(Config("BPR", "shop", command_line=values), RunFolder(tmp_path / "run"))
    parts = (experiment.train_data, experiment.valid_data, experiment.test_data)
    train, valid, test = (pairs_of(part._dataset, experiment.dataset) for part in parts)
    split = Split("shop", str(tmp_path), seed=seed)
    assert trained_pairs(split) == train
    assert split.held_out == valid | test
    assert all(
        history == sorted(history, key=lambda item: int(item[1:])) for history in split.histories.values()
    )
    assert len(train) + len(split.held_out) == len(rows)
    assert trained_pairs(Split("shop", str(tmp_path), seed=seed + 10)) != train
