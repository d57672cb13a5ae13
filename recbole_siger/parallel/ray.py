"""The connection to Ray for the time of a search."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["connected", "failure_line", "interruptible", "rooms"]

# Ray's own handler of interrupts finishes a step first; its new output prints whatever `verbose` says.
_SWITCHES = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
_PATIENCE = 10.0
# The line of a traceback, or of Ray's own words, that names the exception.
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")
# gRPC may kill the process that a head forks for a client (grpc/grpc#43055, grpcio 1.81 and later).
_NO_SERVER = "Starting Ray client server failed"


@contextmanager
def connected(address: str | None, command: str) -> Iterator[tuple[bool, str]]:
    """Hold a connection to Ray: one that is there already, a cluster's, or one started here for the while.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; None for this machine.
        command: Who asks, for errors.

    Yields:
        Whether this is a remote client of the cluster, and a line about what Ray has.

    Raises:
        UserError: If there is no Ray, no cluster, or what is done on one fails.
    """
    try:
        import ray
        from ray import tune  # noqa: F401  # it has requirements of its own
    except ImportError as error:
        raise UserError(f"{command} needs Ray ({error}): pip install 'ray[tune]>=2.40'") from None
    own = not ray.is_initialized()
    if own:
        _start(address)
    try:
        there = ray.cluster_resources()
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        cpus, gpus = (there.get(name, 0.0) for name in ("CPU", "GPU"))
        about = f"Ray: {n_nodes} node{'s'[: n_nodes > 1]}, {cpus:g} CPU, {gpus:g} GPU"
        yield ray.util.client.ray.is_connected(), about
    except ray.exceptions.RayError as error:  # a lost cluster, or what was raised on its head
        raise UserError(f"Ray: {failure_line(str(error))}") from None
    except ConnectionError as error:
        if type(error) is not ConnectionError:  # a closed pipe of ours
            raise
        why = _line(error).rstrip(".")
        raise UserError(f"Ray: the cluster is lost ({why}); what is done can be resumed") from None
    finally:
        if own:
            ray.shutdown()


def _start(address: str | None) -> None:
    import ray

    if address not in (None, "", "auto", "local"):
        _knock(str(address))
    here: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except ImportError as error:
        raise UserError(f"--address={address}: {_line(error)}; pip install 'ray[client]'") from None
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        if not address:
            raise UserError(f"Ray does not start on this machine: {_line(error)}") from None
        raise _unreached(address, error) from None


def _knock(address: str) -> None:
    """Refuse an address where nothing listens; Ray would try for many minutes, deaf to interrupts."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"--address={address}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise _unreached(address, error) from None


def _unreached(address: str, error: Exception) -> UserError:
    if _NO_SERVER in str(error):
        return UserError(
            f"--address={address}: {_NO_SERVER}: try again; GRPC_ENABLE_FORK_SUPPORT=0 in the shell of "
            "`ray start --head` prevents it"
        )
    return UserError(f"--address={address}: no Ray there: {_line(error)}; start it with `ray start --head`")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def rooms(needed: Mapping[str, float]) -> int:
    """Return how many processes Ray's nodes hold at a time, each with all that it needs on one node.

    Args:
        needed: What a process takes of Ray's resources, such as ``{"CPU": 1.0, "GPU": 0.25}``.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = [(name, amount) for name, amount in needed.items() if amount > 0]
    # A hair more, so that ten tenths are one.
    return sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted) for node in nodes)


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


def failure_line(trace: str) -> str:
    r"""Tell in one line what Ray's account of a failed trial ends with.

    >>> failure_line("Failure # 1\nTraceback:\n  File x\nrecbole_siger.errors.UserError: too\n big\n")
    'too big'
    """
    lines = [line for line in trace.splitlines() if line.strip() and not line.startswith("Failure #")]
    starts = [i for i, line in enumerate(lines) if _RAISED.match(line)]
    told = " ".join(" ".join(lines[starts[-1] if starts else 0 :]).split())
    return told.removeprefix("recbole_siger.errors.UserError: ") or "failed without a message"
