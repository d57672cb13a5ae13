"""A lock has one holder, ends with its process, and leaves no file. Old scratch folders are deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recbole_siger.common.files import delete_leftovers
from recbole_siger.common.locks import LOCK, locked, scratch_folder, waiting_for
from recbole_siger.errors import UserError

_HOLD = """
import sys, time
from pathlib import Path
from recbole_siger.common.locks import {name}
with {call} as folder:
    print(folder, flush=True)
    time.sleep(300)
"""


def holding(name: str, call: str) -> tuple[subprocess.Popen[str], str]:
    """Start a process that holds a lock; return the process and its line."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD.format(name=name, call=call)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_lock_has_one_holder_and_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / LOCK
    with locked(file, "busy"):
        for path in (file, tmp_path / "." / LOCK):
            with pytest.raises(UserError, match=r"^busy$"), locked(path, "busy"):
                raise AssertionError
        assert file.exists()
    assert not file.exists()
    with locked(file, "busy"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(number: int, tmp_path: Path) -> None:
    file = tmp_path / LOCK
    process, _ = holding("locked", f"locked(Path({str(file)!r}), 'busy')")
    with pytest.raises(UserError, match="busy"), locked(file, "busy"):
        raise AssertionError
    process.send_signal(number)
    process.communicate()
    with locked(file, "busy"):
        pass
    assert not file.exists()


def test_many_threads_hold_a_lock_one_after_the_other(tmp_path: Path) -> None:
    """The file is deleted at each release, and never is one lock held twice."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(7):
            with waiting_for(tmp_path / LOCK, lambda: None, lambda: False) as held:
                assert held
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not (tmp_path / LOCK).exists()


def test_a_wait_ends_when_it_is_stopped(tmp_path: Path) -> None:
    waits: list[int] = []
    with (
        locked(tmp_path / LOCK, "busy"),
        waiting_for(tmp_path / LOCK, lambda: waits.append(1), lambda: True) as held,
    ):
        assert not held
    assert waits == [1]


def test_a_link_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"\.lock: cannot be locked: "), locked(tmp_path / LOCK, "busy"):
        raise AssertionError
    assert not (tmp_path / "outside").exists()


def test_scratch_folders_of_killed_processes_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kept = [tmp_path / name for name in ("recbole-siger-report.log", "recbole-siger-new", "other-folder")]
    kept[0].touch()
    for folder in (*kept[1:], tmp_path / "recbole-siger-old"):
        folder.mkdir()
    (tmp_path / "recbole-siger-link").symlink_to(kept[2])
    kept.append(tmp_path / "recbole-siger-link")
    os.utime(tmp_path / "recbole-siger-old", (0, 0))
    living, line = holding("scratch_folder", "scratch_folder()")
    killed, other = holding("scratch_folder", "scratch_folder()")
    killed.kill()
    killed.communicate()
    assert Path(other).is_dir()
    with scratch_folder() as folder:
        assert not any(folder.iterdir())
        assert {*tmp_path.iterdir()} == {*kept, Path(line).parent, folder.parent}
    living.kill()
    living.communicate()
    assert {*tmp_path.iterdir()} == {*kept, Path(line).parent}


def test_only_temporary_files_are_leftovers(tmp_path: Path) -> None:
    names = [
        ".toy.0123abcd.tmp",
        ".model.0123abcd.tmp.safetensors",
        ".a.b.0123abcd.tmp.csv",
        ".toy.0123abcd.tmp.10-core",
    ]
    others = ["toy.tmp", ".toy.tmp", ".toy.0123abcd", ".toy.0123ABCD.tmp", "0123abcd.tmp", ".lock"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    (tmp_path / names[0]).unlink()
    (tmp_path / names[0] / "deep").mkdir(parents=True)
    delete_leftovers(tmp_path, min_age=3600.0)
    delete_leftovers(tmp_path, "toy.inter", "model", "a.b", "toy.5-core")  # other names with the same stems
    assert len([*tmp_path.iterdir()]) == len(names) + len(others)
    delete_leftovers(tmp_path, "toy")
    assert not (tmp_path / names[0]).exists()
    delete_leftovers(tmp_path, "b", "a.b.csv")
    assert not (tmp_path / names[2]).exists()
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others}
    delete_leftovers(tmp_path / "absent")
