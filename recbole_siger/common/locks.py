"""Folders and names that belong to one process at a time; the system frees a lock when its process ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_siger.errors import UserError

__all__ = ["LOCK", "locked", "scratch_folder", "waiting_for"]

LOCK = ".lock"
"""Name of the lock file within a folder."""

_SCRATCH = "recbole-siger-"
_UNLOCKED_AGE = 86_400.0  # seconds after which a scratch folder without a lock is old
_PAUSE = 0.2  # seconds between two attempts


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Hold a lock file during the block, and delete the file afterwards.

    Args:
        file: The lock file, in a folder that exists.
        busy: Message for the case that another process holds the lock.

    Raises:
        UserError: If another process holds the lock, or the file cannot be written.
    """
    lock = _acquired(file)
    if lock is None:
        raise UserError(busy)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def waiting_for(file: Path, waiting: Callable[[], None], stopped: Callable[[], bool]) -> Iterator[bool]:
    """Hold a lock file during the block, after waiting for the process that holds the lock.

    Args:
        file: The lock file, in a folder that exists.
        waiting: Called once if another process holds the lock.
        stopped: Called between attempts; the wait ends when it returns True.

    Yields:
        Whether the lock is held; False only after ``stopped``.
    """
    lock = _acquired(file)
    if lock is None:
        waiting()
    while lock is None and not stopped():
        time.sleep(_PAUSE)
        lock = _acquired(file)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _release(lock)


def _acquired(file: Path) -> FileLock | None:
    # Locks of two threads are two locks, and one thread may release the lock of another.
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise UserError(f"{file}: cannot be locked: {error.strerror or error}; check the folder") from None
    return lock


def _release(lock: FileLock) -> None:
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder for temporary files, which is deleted after the block.

    Before, the folders that killed processes of this user have left are deleted.
    """
    root = Path(tempfile.gettempdir())
    _sweep_scratch(root)
    folder, lock = _new_scratch(root)
    inner = folder / "files"
    try:
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _new_scratch(root: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=root))
        try:
            lock = _acquired(folder / LOCK)
        except UserError:
            if folder.exists():
                raise
            lock = None
        if lock is not None:  # else the sweep of another process has the folder
            return folder, lock


def _sweep_scratch(root: Path) -> None:
    for folder in root.glob(f"{_SCRATCH}*"):
        try:
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
                continue
            if not (folder / LOCK).exists():  # just made, or made by an older version
                if time.time() - folder.stat().st_mtime > _UNLOCKED_AGE:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            lock = _acquired(folder / LOCK)
        except (OSError, UserError):  # another process deletes the folder at the same time
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
