"""Progress of a long computation as lines of the log."""

from __future__ import annotations

import logging
import time

__all__ = ["LoggedProgress"]

_log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class LoggedProgress:
    """Logs how much of a computation is done, at most every 30 seconds; a short computation logs nothing.

    Args:
        name: What is computed.
        total: Number of parts.
        unit: Name of the parts, and anything that the line ends with.
    """

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._told = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more parts."""
        self.done += n
        if time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            _log.info("%s: %s of %s %s", self.name, f"{self.done:,}", f"{self.total:,}", self.unit)
