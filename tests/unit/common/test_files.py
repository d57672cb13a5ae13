"""Files appear whole or not at all."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from recbole_siger.common import files
from recbole_siger.common.files import atomic_path, check_output, real_path, sha256, write_array, write_text
from recbole_siger.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_keeps_its_line_ends_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ü\r\nb\n")
    assert path.read_bytes() == "ü\r\nb\n".encode()
    assert names(path.parent) == ["a.txt"]


def test_array_round_trip_under_any_name(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_array(tmp_path / "a.bin", array)
    loaded = np.load(tmp_path / "a.bin", allow_pickle=False)
    assert loaded.dtype == np.float16
    assert np.array_equal(loaded, array)


def test_objects_are_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "a.npy", np.array([None]))
    assert np.load(tmp_path / "a.npy").shape == (3,)
    assert names(tmp_path) == ["a.npy"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def half_written() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert names(tmp_path) == []


def make_folder(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / content).touch()


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "d", "old")
    make_folder(tmp_path / "d", "new")
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["new"]


def test_the_old_folder_returns_when_the_move_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "d", "old")
    rename = os.rename

    def fail_second(source: Path, destination: Path, calls: list[int] = []) -> None:  # noqa: B006 - a counter
        calls.append(1)
        if len(calls) == 2:
            raise OSError("full")
        rename(source, destination)

    monkeypatch.setattr(files.os, "rename", fail_second)
    with pytest.raises(OSError, match="full"):
        make_folder(tmp_path / "d", "new")
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["old"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_link_in_a_loop_has_a_real_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").touch()
    assert real_path(tmp_path / "loop") == tmp_path / "loop"
    assert real_path(tmp_path / "link") == tmp_path / "file"


def test_an_error_names_the_file_and_not_its_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]


def test_an_output_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for good in ("file", "new", "new/a", "folder/a", "folder/b/c"):
        assert check_output(tmp_path / good) == tmp_path / good
    for bad, problem in {
        "folder": "folder is a folder, not a file; choose another name",
        "file/a": "file is a file, not a folder; choose another name",
        "file/a/b": "file is a file, not a folder",
        "gone/a": "gone is a file, not a folder",
    }.items():
        with pytest.raises(UserError, match=rf"^command line: --out: {tmp_path}/{problem}"):
            check_output(tmp_path / bad)


def test_an_output_is_no_file_of_a_run(tmp_path: Path) -> None:
    write_text(tmp_path / "run" / "ids" / "items.txt", "[PAD]\n")
    write_text(tmp_path / "project" / "config.yaml", "{}\n")
    for good in ("run/recs.csv", "project/users.csv", "users.csv", "run/more/users.csv"):
        assert check_output(tmp_path / good) == tmp_path / good
    for bad in ("users.csv", "results.json", "metrics.jsonl", "digests.json"):
        with pytest.raises(UserError, match=rf"run/{bad} is a file of a run; choose another name"):
            check_output(tmp_path / "run" / bad)
