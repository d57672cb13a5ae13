"""Finished runs that are written, not trained: two seeds of one model, and another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.runs.folder import RunFolder
from tests.unit.serve.conftest import draw_run


def finish_run(folder: Path, model: str, seed: int, recall: float, **changes: Any) -> Path:
    """Write a run of three epochs whose test Recall@5 is ``recall``, on the folder of the tests of serve."""
    draw_run(folder, seed, model)
    run = RunFolder(folder)
    config = {"model": model, "dataset": "drawn", "seed": seed, "valid_metric": "Recall@5"}
    run.write_config({**config, "embedding_size": 13, "save_embeddings": True})
    for epoch in range(3):
        value = recall * (epoch + 1) / 3
        run.append_metrics(
            {
                "epoch": epoch,
                "loss": {"bpr": 0.7 - 0.1 * epoch, "regularization": 1e-7},
                "valid": {"recall@5": value, "giniindex@5": 0.9 - value},
                "best_epoch": epoch,
                "seconds_train": 2.0,
                "seconds_valid": 0.5,
                "peak_memory_mib": 101.0,
            }
        )
    values = {"recall@5": recall, "giniindex@5": 0.9 - recall}
    popularity = {
        "head": {"n_items": 7, "n_users": 29, "recall@5": recall / 2},
        "none": {"n_items": 2, "n_users": 0},
    }
    results = {
        "model": model,
        "dataset": "drawn",
        "protocol": "mmrec",
        "protocol_id": "0123456789abcdef",
        "candidates": "all",
        "seed": seed,
        "best_epoch": 2,
        "valid": values,
        "test": values,
        "slices": {"item_popularity": popularity, "user_activity": {}},
        "n_epochs": 3,
        "seconds_per_epoch": 2.5,
        "peak_memory_mib": 101.0 + seed,
        "n_parameters": 13 * 17,
        "versions": {"torch": str(torch.__version__)},
    }
    (folder / "run.log").write_text("2026-03-05 07:11:13,017 INFO run folder\n")
    (folder / "results.json").write_text(json.dumps({**results, **changes}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """LightGCN with the seeds 3 and 5, BPR with the seed 3."""
    return [
        finish_run(tmp_path / "a", "LightGCN", 3, 0.2),
        finish_run(tmp_path / "b", "LightGCN", 5, 0.4),
        finish_run(tmp_path / "c", "BPR", 3, 0.1),
    ]
