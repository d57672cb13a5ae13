"""A child process that ends when its parent process ends, even if the parent was killed."""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["PARENT_VARIABLE", "stop_with_parent"]

PARENT_VARIABLE = "RECBOLE_SIGER_PARENT"
"""Environment variable in which a parent passes its process id to a child."""

_INTERVAL = 0.2  # seconds between two checks
_PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL


def stop_with_parent() -> None:
    """Stop this process soon after the parent that :data:`PARENT_VARIABLE` names has ended.

    A thread watches the parent. When the parent has ended, the thread sends SIGTERM to this process, and
    SIGKILL ten seconds later. Without the variable, nothing happens. The variable is removed, so that
    processes started from here do not read it.
    """
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(_INTERVAL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
