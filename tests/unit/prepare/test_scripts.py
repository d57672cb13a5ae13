"""The scripts are doors to the commands: nothing but a name stands between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.raw import Shape, write_csv
from recbole_siger import cli
from recbole_siger.prepare.run import KINDS

ROOT = Path(__file__).parents[3]
DOORS = {"amazon": "amazon", "microlens": "microlens", "movielens": "movielens", "own_csv": "csv"}


def call(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "dataset_scripts" / f"{script}.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_kind_has_a_door() -> None:
    assert set(DOORS.values()) == set(KINDS)
    assert {path.stem for path in (ROOT / "dataset_scripts").glob("*.py")} == {*DOORS, "ml_100k"}


@pytest.mark.parametrize("script", DOORS)
def test_help_and_a_missing_option(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helped = call(script, "--help", cwd=tmp_path)
    capsys.readouterr()
    assert cli.main(["prepare", "--help"]) == 0
    assert (helped.returncode, helped.stdout) == (0, capsys.readouterr().out)
    refused = call(script, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: command line: prepare {DOORS[script]} requires --")
    assert refused.stderr.count("\n") == 1


def test_a_script_does_what_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path, Shape(31, 17, 300))
    words = ["--inter=my.csv", "--name=toy"]
    done = call("own_csv", *words, "--data_path=a", cwd=tmp_path)
    assert done.returncode == 0
    assert cli.main(["prepare", "csv", *words, "--data_path=b"]) == 0
    assert capsys.readouterr().out == done.stdout.replace("written to a", "written to b").replace(
        "=a\n", "=b\n"
    )
    for path in Path("a/toy").iterdir():
        assert path.read_bytes() == (Path("b/toy") / path.name).read_bytes()
