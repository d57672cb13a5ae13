"""RecBole's own errors as one line for the user; an error of this package stays what it is."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_siger.errors import UserError

__all__ = ["explain_recbole"]


@contextmanager
def explain_recbole(what: str, fix: str) -> Iterator[None]:
    """Turn an error that RecBole raises into a UserError.

    The original error is the cause of the UserError. An error that is raised in this package, called by
    RecBole or not, passes unchanged, and so does a lack of memory.

    Args:
        what: What RecBole was asked to do, with the dataset's name and folder.
        fix: What the user can do.

    Raises:
        UserError: In one line: ``what``, RecBole's words and ``fix``.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if not _raised_in_recbole(error):
            raise
        words = " ".join(str(error).split())[:300] or "no reason given"
        raise UserError(f"{what}: RecBole says {type(error).__name__}: {words}; {fix}") from error


def _raised_in_recbole(error: Exception) -> bool:
    """Return whether RecBole's code is nearer to the error than this package's code."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in names]
    return [name for name in packages if name in ("recbole", "recbole_siger")][-1:] == ["recbole"]
