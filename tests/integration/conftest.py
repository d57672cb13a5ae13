"""Runs in a folder of their own, and the one toy data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toy import QUIET, write_toy

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that nothing is found or left elsewhere."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path, workdir: Path) -> Settings:
    """Values for runs on the toy data set, with changes."""
    write_toy(tmp_path / "data")

    def build(**changes: Any) -> dict[str, Any]:
        small = {"train_batch_size": 64, "embedding_size": 8, "topk": [3, 5], "valid_metric": "Recall@5"}
        return {**QUIET, "data_path": str(tmp_path / "data"), **small, **changes}

    return build
