"""Every benchmark runs; what it prints is nobody's business but the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_benchmarks_run_and_leave_records(tmp_path):
    out = tmp_path / "performance.jsonl"
    command = [sys.executable, "-m", "benchmarks.all", "--quick", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = {record["benchmark"] for record in records}
    assert found == {
        "step",
        "epoch",
        "full_contrast",
        "evaluation",
        "loader",
        "LightGCN",
        "graphs",
        "subspaces",
        "prepare",
        "recommend",
        "serve",
    }
    assert all(record["machine"]["torch"] for record in records)
