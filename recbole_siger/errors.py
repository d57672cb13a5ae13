"""The one exception that a user is meant to read."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input, told in one line that names the file, the key, the value and the mend.

    The command line prints it without a traceback and exits with 2.
    """
