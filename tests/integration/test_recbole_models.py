"""RecBole's general recommenders train, are tested and can be tested again from their run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.quick_start import evaluate_run, run_experiment
from tests.toy import QUIET

QUICK = ["BPR", "LightGCN", "ItemKNN", "EASE", "MultiVAE", "Pop", "Random"]
SLOW = ["NGCF", "SGL", "NCL", "SimpleX", "SLIMElastic"]

# By chance Recall@20 is some 20 / 1682; one epoch brings these to the order of popularity or above.
LEARNS_AT_ONCE = {"LightGCN": 0.1, "ItemKNN": 0.2, "EASE": 0.2, "Pop": 0.1, "SLIMElastic": 0.2, "NGCF": 0.05}


@pytest.mark.parametrize("model", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_one_epoch_on_ml_100k(model: str, workdir: Path) -> None:
    options: dict[str, Any] = {"num_clusters": 50} if model == "NCL" else {}
    result = run_experiment(model, "ml-100k", config_dict={**QUIET, "epochs": 1, "run_dir": "run", **options})
    assert (result["model"], result["best_epoch"], result["n_epochs"]) == (model, 0, 1)
    assert set(result["test"]) == {
        f"{m}@{k}" for m in ("recall", "ndcg", "hit", "precision") for k in (10, 20)
    }
    assert 0 < result["test"]["recall@10"] < result["test"]["recall@20"] < 1
    assert result["test"]["recall@20"] > LEARNS_AT_ONCE.get(model, 0)
    assert json.loads(Path("run/results.json").read_text())["test"] == result["test"]
    assert Path("run/model.safetensors").is_file()
    assert evaluate_run("run") == result["test"]
    assert [path.name for path in workdir.iterdir()] == ["run"]
