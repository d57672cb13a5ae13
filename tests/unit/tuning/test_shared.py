"""A shared dataset gives the run that a loaded one gives, again and again."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment
from recbole_siger.tuning.shared import SharedDataset
from tests.toy import QUIET, write_toy


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "data")
    small = {
        "data_path": str(tmp_path / "data"),
        "embedding_size": 8,
        "topk": [5],
        "valid_metric": "Recall@5",
    }
    return Config("SIGER", "toy", config_dict={**QUIET, **small, "epochs": 2})


def outcome(config: Config, folder: Path, dataset: MultimodalDataset | None) -> dict[str, Any]:
    run = RunFolder.create(folder)
    experiment = build_experiment(config, run, dataset)
    experiment.begin()
    found = experiment.train()
    return {key: found[key] for key in ("valid", "test", "best_epoch", "protocol_id", "slices")}


@pytest.mark.parametrize("pickled", [False, True], ids=["same process", "another process"])
def test_runs_are_those_of_a_loaded_dataset(config: Config, tmp_path: Path, *, pickled: bool) -> None:
    loaded = MultimodalDataset(config)
    loaded.item_features()
    shared = SharedDataset(loaded)
    if pickled:  # as Ray sends it: arrays beside the rest, not to be written to
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
        assert len(buffers) >= len(loaded.item_features())
        shared = pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])
    straight = outcome(config, tmp_path / "straight", None)
    for name in ("first", "second"):  # the first leaves nothing behind
        assert outcome(config, tmp_path / name, shared.with_config(config)) == straight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_not_copied(config: Config, dtype: torch.dtype) -> None:
    loaded = MultimodalDataset(config)
    config["feature_dtype"] = str(dtype).removeprefix("torch.")
    tables = loaded.item_features()
    assert {x.dtype for x in tables.values()} == {dtype}
    again = SharedDataset(loaded).with_config(config).item_features()
    assert {name: x.data_ptr() for name, x in again.items()} == {n: x.data_ptr() for n, x in tables.items()}
    assert all(torch.equal(again[name], tables[name]) for name in tables)


def test_a_trial_may_round_the_shared_features(config: Config) -> None:
    loaded = MultimodalDataset(config)
    exact = loaded.item_features(torch.float32)
    config["feature_dtype"] = "bfloat16"
    rounded = SharedDataset(loaded).with_config(config).item_features()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert loaded._item_features["image"].dtype == torch.float32  # the shared dataset is unchanged
