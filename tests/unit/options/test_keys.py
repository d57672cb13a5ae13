"""Keys that change no result: each is known to Config, and none enters the hash of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.keys import KINDS, NO_EFFECT, keys_of
from recbole_siger.studies.campaign import config_hash

# A value other than the default for each key; a key that names a pickle accepts only the empty value.
OTHER: dict[str, Any] = {
    "data_path": "elsewhere",
    "run_dir": "runs/other",
    "cache_dir": "none",
    "prepare": "script",
    "gpu_id": "",
    "use_gpu": False,
    "threads": 3,
    "compile": "auto",
    "saved": False,
    "save_embeddings": False,
    "save_features": False,
    "checkpoint_interval": 7.0,
    "logger": "tensorboard",
    "log_wandb": True,
    "wandb_project": "other",
    "checkpoint_dir": "other",
    "show_progress": False,
    "state": "ERROR",
    "save_dataset": False,
    "dataset_save_path": None,
    "save_dataloaders": False,
    "dataloaders_save_path": None,
}


def build(**values: Any) -> Config:
    return Config("SIGER", "toy", config_dict=values)


def test_every_key_is_known_to_the_configuration() -> None:
    assert set(OTHER) == NO_EFFECT == set(KINDS)
    assert build().known_keys() >= NO_EFFECT


@pytest.mark.parametrize("key", sorted(NO_EFFECT))
def test_one_such_key_leaves_the_hash_unchanged(key: str) -> None:
    assert config_hash(build(**{key: OTHER[key]}).effective()) == config_hash(build().effective())


def test_all_such_keys_together_leave_the_hash_unchanged() -> None:
    first, second = build().effective(), build(**OTHER).effective()
    assert first != second
    assert config_hash(first) == config_hash(second)
    assert config_hash(first) != config_hash(build(**OTHER, learning_rate=0.5).effective())


@pytest.mark.parametrize("key", sorted(keys_of("pickle")))
def test_a_key_that_names_a_pickle_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}=.*: RecBole pickles"):
        build(**{key: "a.pth" if key.endswith("path") else True})


def test_paths_are_absolute_where_a_configuration_is_sent() -> None:
    sent = build(data_path="data", cache_dir="cache").portable()
    assert (sent["data_path"], sent["cache_dir"]) == (str(Path.cwd() / "data"), str(Path.cwd() / "cache"))
    assert build(cache_dir="none").portable()["cache_dir"] == "none"
