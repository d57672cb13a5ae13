"""The report of a GPU: parts that fail or are too slow are lines, and the summary stays short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import LINES, PARTS, ROOT, Part, missing_packages, parse, run_part, summary


def run_code(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: float
) -> tuple[list[str], bool]:
    monkeypatch.setattr(gpu, "command_of", lambda part, options: [sys.executable, "-I", "-c", code])
    part = Part("step", limits.get("seconds", 60.0), lines=3)
    return run_part(part, parse([f"--out={tmp_path}"]), limits.get("left", 60.0))


def is_running(process: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_the_marked_lines_of_a_part_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('noise'); print('> a 1 ms'); print('> b'); print('> c'); print('> d')"
    lines, is_good = run_code(code, tmp_path, monkeypatch)
    assert is_good
    assert lines[:3] == ["a 1 ms", "b", "c"]
    assert lines[3].endswith(" s)")
    assert (tmp_path / "step.log").read_text().startswith("noise")


def test_a_part_that_fails_says_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, is_good = run_code(
        "print('> a', flush=True); raise ValueError('no kernel')", tmp_path, monkeypatch
    )
    assert not is_good
    assert lines == ["a", "failed: ValueError: no kernel"]


def test_a_part_that_is_too_slow_is_stopped_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-I', '-c', 'import time; time.sleep(600)'])\n"
        "print('>', child.pid, flush=True)\ntime.sleep(600)"
    )
    log = tmp_path / "step.log"

    class Process(subprocess.Popen[bytes]):
        """Time is up when the part has printed its line, however busy this machine is."""

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return super().wait()
            while not (log.exists() and log.read_text().endswith("\n")):
                assert self.poll() is None
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(code, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.subprocess, "Popen", Process)
        lines, is_good = run_code(code, tmp_path, monkeypatch, left=30.0)
    assert not is_good
    assert lines[1] == "stopped after 30 s"
    deadline = time.monotonic() + 60
    while is_running(int(lines[0])):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_part_without_time_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_code("print('> a')", tmp_path, monkeypatch, left=1.0)
    assert found == (["not run: no time left"], False)


def test_parts_of_a_gpu_are_named_on_the_cpu(tmp_path: Path) -> None:
    part = next(part for part in PARTS if part.needs_gpu)
    assert run_part(part, parse([f"--out={tmp_path}", "--device=cpu"]), 60.0) == (["no GPU"], True)


def test_failed_tests_are_listed(tmp_path: Path) -> None:
    log = tmp_path / "tests.log"
    log.write_text(
        "F.s\nFAILED tests/gpu/test_gpu.py::test_one - assert 0\n== 1 failed, 9 passed in 3.00s ==\n"
    )
    assert gpu.lines_of(log) == [
        "1 failed, 9 passed in 3.00s",
        "FAILED tests/gpu/test_gpu.py::test_one - assert 0",
    ]


def test_tests_that_were_stopped_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "tests.log"
    log.write_text("tests/a.py::one PASSED [ 3%]\ntests/a.py::two FAILED [ 6%]\ntests/a.py::three ")
    assert gpu.lines_of(log) == ["1 passed, 1 failed until then", "tests/a.py::two FAILED [ 6%]"]


def test_a_folder_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn data in place of the asked ones would be measured without a word."""
    with pytest.raises(SystemExit) as caught:
        parse([f"--data_path={tmp_path}"])
    assert caught.value.code == 2
    assert ": no baby/baby.train.inter" in capsys.readouterr().err


def test_the_summary_has_at_most_60_lines() -> None:
    said = [(part, [f"line {number} of {part.name} " + "x" * 300 for number in range(20)]) for part in PARTS]
    lines = summary(said, "gpu A100").splitlines()
    assert lines[0] == "gpu A100"
    assert len(lines) <= LINES
    assert all(len(line) <= 160 for line in lines)
    assert [line.split()[0] for line in lines if not line.startswith(" ")][1:] == [
        part.name for part in PARTS
    ]
    many = [(Part("step", 1, lines=90), [str(number) for number in range(90)])]
    assert summary(many, "x").splitlines()[-1] == "... 32 more lines in the logs"


def test_the_time_limits_fit_into_eight_minutes() -> None:
    """Only the parts that a card makes slow reach their limit; the report as a whole has its own."""
    assert parse([]).seconds <= 480
    assert max(part.seconds for part in PARTS) < parse([]).seconds


def test_missing_packages_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing_packages({"json": "json", "no_such_module": "no-such>=1"}) == ["no-such>=1"]
    monkeypatch.setattr(gpu, "REQUIRED", {"no_such_module": "no-such>=1"})
    assert gpu.main(["--check"]) == 2
    said = capsys.readouterr().err
    assert said == "missing packages: no-such>=1; docs/gpu.md says how to collect wheels\n"


def test_the_head_is_the_machine(tmp_path: Path) -> None:
    options = parse([f"--out={tmp_path}"])
    assert gpu.head(options) == "machine unknown"
    (tmp_path / "machine.json").write_text(json.dumps({"gpu": "H200", "torch": "2.11", "cpu": "x"}))
    assert gpu.head(options) == "gpu H200  torch 2.11"


def test_the_script_is_a_script() -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
