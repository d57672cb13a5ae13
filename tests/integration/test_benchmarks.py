"""Every benchmark runs. Tests do not judge its times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_parts

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
        "processes",
    }
    by_name = {record["candidate"]: record for record in records if record["benchmark"] == "processes"}
    two, gradients = by_name["2 x 1024 rows"], by_name["gradients"]
    assert two["messages"] == 2
    assert two["bytes"] == gradients["gradient_bytes"] + 8 * gradients["parameters"]
    assert all(record["machine"]["torch"] for record in records)


@pytest.mark.slow
def test_the_parts_of_a_gpu_report_run_on_the_cpu(tmp_path, capsys):
    """A small rehearsal: each part prints lines for the summary and leaves records."""
    parts = ["data", "step", "captured", "epoch", "precision", "evaluation", "products"]
    for name in parts:
        options = ["--out", str(tmp_path), "--device=cpu", "--quick"]
        gpu_parts.main([name, *options])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("> ")]
        limit = next(part.lines for part in gpu.PARTS if part.name == name)
        assert 1 <= len(lines) <= limit, name
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["benchmark"] for line in lines} == {f"gpu {name}" for name in parts[1:]}
    assert json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))["torch"]
