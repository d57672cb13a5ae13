"""Claim a new run folder: exactly one process makes a folder."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from recbole_siger.common.locks import LOCK
from recbole_siger.errors import UserError

__all__ = ["claim_folder", "names_in", "refuse_links"]


def claim_folder(path: Path, *, numbered: bool) -> tuple[Path, bool]:
    """Make a folder that does not exist, or accept an existing folder.

    The system makes a folder for one process only, so two processes never claim one new folder.

    Args:
        path: The folder; missing parents are made.
        numbered: Whether to make ``<path>-2``, ``<path>-3``, ... instead of an existing folder.

    Returns:
        The folder, and whether this call made the folder.

    Raises:
        UserError: If the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            try:
                folder.mkdir()
                return folder, True
            except FileExistsError:
                if not numbered and folder.is_dir():
                    return folder, False
                if not numbered:
                    raise
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}; choose another --run_dir") from None
    raise AssertionError("the numbers have an end")


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder without the lock file; empty if there is no folder."""
    try:
        return {name for name in os.listdir(folder) if name != LOCK}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; choose another --run_dir") from None


def refuse_links(folder: Path) -> None:
    """Refuse symbolic links in a run folder, because a run would write to the files that they point to.

    Raises:
        UserError: If the folder or its folder ``ids`` has a symbolic link.
    """
    for part in (folder, folder / "ids"):
        for name in names_in(part):
            if (part / name).is_symlink():
                raise UserError(
                    f"{part / name}: is a symbolic link; replace the link by a copy of the file, "
                    "a run writes to its own folder only"
                )
