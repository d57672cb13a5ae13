"""Settings of this process that must not affect other code: environment variables, and how threads wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["restored_environment", "wait_passively"]

_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


@contextmanager
def restored_environment(*names: str) -> Iterator[None]:
    """Restore some environment variables at the end of the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spin, unless the user's environment has a waiting policy.

    OpenMP reads the policy once, when torch is loaded, so a command calls this function before torch is
    imported; importing this package never does. On a machine with other work, a spinning thread takes the
    core from the thread that it waits for.
    """
    if not any(name in os.environ for name in _POLICIES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
