"""Files that are either complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_siger.errors import UserError

__all__ = [
    "atomic_path",
    "check_output",
    "delete_leftovers",
    "file_above",
    "naming",
    "real_path",
    "sha256",
    "write_array",
    "write_text",
]

_OF_A_RUN = ("digests.json", "metrics.jsonl", "results.json", "users.csv")  # tables have such suffixes
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp(\.[^.]+)?")  # as `_sibling` writes


def _sibling(path: Path) -> Path:
    """Return an unused path beside ``path``; the suffix is kept, because writers infer formats from it."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move_onto(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    # No system replaces a non-empty folder: move the old folder aside, and move it back if the move fails.
    retired = _sibling(path)
    os.rename(path, retired)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(retired, path)
        raise
    shutil.rmtree(retired)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that becomes ``path`` when the block succeeds.

    The block creates a file or a folder there. If the block raises, the temporary is removed and ``path``
    does not change. An existing file is replaced; an existing folder is replaced by a folder only. Missing
    parents are made.

    Args:
        path: Path of the finished file or folder.

    Yields:
        A path in the same folder and with the same suffix, at which nothing exists yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        with naming(path, instead_of=temporary):
            yield temporary
            _move_onto(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def naming(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Give an OSError of the block the name of a file, unless the error has one, as for a full disk.

    Args:
        path: The file that the user knows.
        instead_of: A temporary file, whose name is replaced in the error.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(instead_of)):
            error.filename = str(path)
        raise


def check_output(path: str | Path, option: str = "--out") -> Path:
    """Return the path of a file to write, before any work.

    Args:
        path: The file, which may exist.
        option: The option that names the file or its folder, for the error.

    Raises:
        UserError: If the path is a folder or a file of a run, or lies below something that is no folder.
    """
    path = Path(path)
    if path.name in _OF_A_RUN and (path.parent / "ids" / "items.txt").is_file():
        raise UserError(f"command line: {option}: {path} is a file of a run; choose another name")
    if path.is_dir():
        raise UserError(f"command line: {option}: {path} is a folder, not a file; choose another name")
    if found := file_above(path):
        raise UserError(f"command line: {option}: {found} is a file, not a folder; choose another name")
    return path


def file_above(path: Path) -> Path | None:
    """Return the first parent that exists and is no folder, so that nothing can be written at ``path``."""
    return next((one for one in path.parents if os.path.lexists(one) and not one.is_dir()), None)


def delete_leftovers(folder: Path, *names: str, min_age: float = 0.0) -> None:
    """Delete temporary files and folders of :func:`atomic_path` that killed processes have left.

    Call this function with a lock of what the temporary files belong to, or with an age that no write has.

    Args:
        folder: The folder to look in, not in its subfolders.
        names: Names of the files and folders that were to be written; by default any.
        min_age: Seconds since the last change, >= 0.
    """
    try:
        listed = os.listdir(folder)
    except OSError:
        return
    for name in listed:
        found, path = _TEMPORARY.fullmatch(name), folder / name
        if found is None or (names and found[1] + (found[2] or "") not in names):
            continue
        try:
            if time.time() - path.lstat().st_mtime >= min_age:
                _remove(path)
        except OSError:  # of another user, or deleted by another process
            continue


def real_path(path: str | Path) -> Path:
    """Return the absolute path without symbolic links; a link in a loop stays.

    ``Path.resolve`` raises RuntimeError for such a link before Python 3.13.
    """
    return Path(os.path.realpath(path))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 without changes of line ends, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write ``array`` as a ``.npy`` file, complete or not at all.

    Args:
        path: The file; no suffix is added.
        array: Any shape, and any dtype that does not require pickle.

    Raises:
        ValueError: If ``array`` contains Python objects.
    """
    # A file object, because np.save appends ".npy" to a name without it.
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
