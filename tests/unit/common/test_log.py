"""A log line is one line without control characters; a closed pipe and a full disk end no run with noise."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recbole_siger import cli
from recbole_siger.cli import main
from recbole_siger.common.log import logging_to
from recbole_siger.errors import UserError

_log = logging.getLogger("recbole_siger.test")


def test_a_line_has_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.log"
    with logging_to(file):
        _log.info("dataset %s on %s", "a\nerror: forged", "\x1b[2J\x1b]0;title\x07日本")
        logging.getLogger("recbole").warning("two\nlines")
    line = r"dataset a\nerror: forged on \x1b[2J\x1b]0;title\x07日本"
    assert capsys.readouterr().out == f"{line}\n"
    written = file.read_text()
    assert written.splitlines()[0].endswith(f" INFO {line}")
    assert written.endswith("WARNING two\nlines\n")


_TALK = """
import logging, os, sys, time
from recbole_siger.common.log import logging_to
from pathlib import Path
log = logging.getLogger("recbole_siger.test")
with logging_to(Path(sys.argv[1])):
    for number in range(500):
        log.info("line %d %s", number, "x" * 100)
    log.info("the end")
"""


def test_a_run_goes_on_when_the_reader_of_its_pipe_ends(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _TALK, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert len(file.read_text().splitlines()) == 501
    assert file.read_text().endswith("the end\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file() -> None:
    with pytest.raises(OSError, match="No space left") as caught, logging_to(Path("/dev/full")):
        _log.info("a line")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["doctor"], ["run", "--model=日本", "--dataset=x"], ["config", "SIGER"]])
def test_a_terminal_without_utf8(encoding: str, words: list[str], tmp_path: Path) -> None:
    if encoding != "ascii" and words == ["doctor"]:
        pytest.skip("a second, one encoding is enough")
    done = subprocess.run(
        [sys.executable, "-m", "recbole_siger", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        cwd=tmp_path,
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr + done.stdout
    if words[0] == "run":
        assert done.stderr.startswith(rb"error: Unknown model '\u65e5\u672c'")
        assert done.returncode == 2
    else:
        assert done.stdout


@pytest.mark.parametrize("error", [UserError, OSError, ValueError])
def test_an_error_line_has_no_control_characters(
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(words: list[str]) -> int:
        raise error("x\x1b[31m\nerror: forged")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "_run", fail)
    assert main(["models"]) == (1 if error is ValueError else 2)
    line = capsys.readouterr().err
    assert r"x\x1b[31m" in line
    assert "\x1b" not in line
    assert line.count("\n") == 1


_WAIT = """
import sys, time
from recbole_siger import cli
def wait(words):
    print("ready", flush=True)
    try:
        time.sleep(300)
    finally:
        print("cleaned", flush=True)
cli._run = wait
sys.exit(cli.main(["models"]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_an_orderly_end(number: int, code: int) -> None:
    # Tests under `nohup` ignore SIGHUP, and a process inherits that.
    code_of_child = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n{_WAIT}"
    with subprocess.Popen(
        [sys.executable, "-c", code_of_child], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "cleaned\n")
    assert error.startswith("interrupted; `recbole-siger resume RUN_DIR` continues a run")


def test_an_ignored_signal_stays_ignored() -> None:
    """As `nohup` starts a command."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _WAIT.replace("300", "0.5")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 0
