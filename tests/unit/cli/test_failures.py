"""An unexpected error is one line that names a log file; with --debug it is a traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.cli import main
from recbole_siger.common.log import logging_to

WORDS = ["run", "--model=BPR", "--dataset=toy"]


def failing(monkeypatch: pytest.MonkeyPatch, log: Path | None) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        with logging_to(None), logging_to(log):
            raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("recbole_siger.quick_start.run_experiment", fail)


def test_a_log_whose_folder_is_gone_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a run that has not begun is removed before the error is told."""

    def fail(*arguments: Any, **options: Any) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        try:
            with logging_to(folder / "run.log"):
                raise RuntimeError("no memory")
        finally:
            shutil.rmtree(folder)

    monkeypatch.setattr("recbole_siger.quick_start.run_experiment", fail)
    assert main(WORDS) == 1
    (file,) = re.findall(r"details in (\S+\.log); ", capsys.readouterr().err)
    assert "Traceback (most recent call last)" in Path(file).read_text()
    Path(file).unlink()
    assert list(tmp_path.iterdir()) == []


def test_the_log_of_the_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    failing(monkeypatch, log)
    assert main(WORDS) == 1
    assert capsys.readouterr().err == (
        "error: unexpected RuntimeError: first line second line; "
        f"details in {log}; --debug shows the traceback\n"
    )
    written = log.read_text()
    assert "unexpected error in: recbole-siger run --model=BPR --dataset=toy" in written
    assert "Traceback (most recent call last)" in written
    assert written.endswith("RuntimeError: first line\nsecond line\n")


def test_without_a_run_the_file_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(monkeypatch, None)
    assert main(WORDS) == main(WORDS) == 1
    named = re.findall(r"details in (\S+);", capsys.readouterr().err)
    assert len({*named}) == 2
    assert all("RuntimeError: first line" in Path(file).read_text() for file in named)
    assert {Path(file) for file in named} == {*tmp_path.iterdir()}


@pytest.mark.parametrize(
    "words", [["--debug", *WORDS], [*WORDS, "--debug"], [*WORDS[:1], "--debug", *WORDS[1:]]]
)
def test_debug_shows_the_traceback(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, tmp_path / "run.log")
    with pytest.raises(RuntimeError, match="first line"):
        main(words)
    assert capsys.readouterr().err == ""


def test_debug_leaves_bad_input_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--debug", "--model=SIGR", "--dataset=toy"]) == 2
    assert capsys.readouterr().err.startswith("error: Unknown model 'SIGR'")


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "recbole_siger", "models"], stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")
