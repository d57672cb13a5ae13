"""The part of a GPU that each process of one training reserves."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from recbole_siger.training.processes import _gpus_of_process


@pytest.mark.parametrize(
    ("n_processes", "n_gpus", "share"),
    [(2, 2, 1.0), (2, 5, 1.0), (2, 1, 0.5), (3, 2, 0.5), (7, 3, 1 / 3), (2, 0, 1.0)],
)
def test_processes_share_gpus_if_there_are_too_few(
    n_processes: int, n_gpus: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = {"CPU": 8.0, **({"GPU": float(n_gpus)} if n_gpus else {})}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: resources))
    assert _gpus_of_process(n_processes) == share
    assert not n_gpus or n_processes * share <= n_gpus  # without a GPU, the check for room rejects the run
