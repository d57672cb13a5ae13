"""Files that are either complete or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["atomic_path", "sha256", "write_array", "write_text"]


def _sibling(path: Path) -> Path:
    """Return an unused path beside ``path``; the suffix is kept, because writers infer formats from it."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir():
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
        yield temporary
        _move_onto(temporary, path)
    finally:
        _remove(temporary)


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
