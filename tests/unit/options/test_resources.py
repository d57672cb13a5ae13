"""Files that a user names: only regular files are opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.options.resources import regular_file


def test_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in "ab":
        assert regular_file(tmp_path / name, "file", "fix") == tmp_path / name


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for name, problem in {
        "pipe": "is a pipe, a socket or a device, not a table; fix",
        "zero": "is a pipe, a socket or a device, not a table; fix",
        "": "is a folder, not a table; fix",
        "nowhere": "no such table; fix",
        "file/below": "no such table; fix",
        "nul\0": "is not the name of a file; fix",
        "loop": "cannot be read (Too many levels of symbolic links); fix",
        "x" * 300: "cannot be read (File name too long); fix",
    }.items():
        with pytest.raises(UserError) as caught:
            regular_file(tmp_path / name, "table", "fix")
        assert str(caught.value).endswith(problem)
        assert "\n" not in str(caught.value)


def test_a_configuration_file_that_is_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    words = ["run", "--model=BPR", "--dataset=toy", f"--config_files={tmp_path / 'pipe.yaml'}", "--dry_run"]
    assert cli.main(words) == 2
    message = "pipe.yaml: is a pipe, a socket or a device, not a configuration file; check --config_files\n"
    assert capsys.readouterr().err.endswith(message)
