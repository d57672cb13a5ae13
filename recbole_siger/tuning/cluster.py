"""The connection to Ray for the time of a search."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["connected", "interruptible"]

# Ray's own handler of interrupts finishes a step first; its new output prints whatever `verbose` says.
_SWITCHES = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}


@contextmanager
def connected(address: str | None, needed: Mapping[str, float]) -> Iterator[tuple[bool, str]]:
    """Hold a connection to Ray: one that is there already, a cluster's, or one started here for the while.

    Args:
        address: ``auto`` or ``ray://host:port``; None for this machine.
        needed: What a trial, or a training, takes of Ray's resources, such as ``{"CPU": 1.0}``.

    Yields:
        Whether this is a remote client of the cluster, and a line about what Ray has.

    Raises:
        UserError: If there is no Ray, no cluster, or no room for one trial.
    """
    try:
        import ray
        from ray import tune  # noqa: F401  # it has requirements of its own
    except ImportError as error:
        raise UserError(f"tune needs Ray ({error}): pip install 'ray[tune]>=2.40'") from None
    own = not ray.is_initialized()
    if own:
        here: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"--address={address}: no Ray there: {reason}; start it with `ray start --head`"
            ) from None
    try:
        there = ray.cluster_resources()
        for name, wanted in needed.items():
            if wanted > (has := there.get(name, 0.0)):
                option = f"--{name.lower()}s_per_trial"
                raise UserError(f"{option}={wanted:g}: Ray has {has:g} {name}; ask for less")
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        about = (
            f"Ray: {n_nodes} node{'s'[: n_nodes > 1]}, {there['CPU']:g} CPU, {there.get('GPU', 0.0):g} GPU"
        )
        yield ray.util.client.ray.is_connected(), about
    finally:
        if own:
            ray.shutdown()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interrupt, or a SIGTERM, end the search at once, and keep Ray from printing beside us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    talk = logging.getLogger("ray.tune")
    level = talk.level
    talk.setLevel(logging.CRITICAL)  # a failed trial is a row; its traceback lies in Ray's folder
    before = signal.signal(signal.SIGTERM, interrupt)
    kept = {name: os.environ.get(name) for name in _SWITCHES}
    os.environ.update(_SWITCHES)
    try:
        yield
    finally:
        talk.setLevel(level)
        signal.signal(signal.SIGTERM, before)
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
