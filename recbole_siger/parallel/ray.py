"""The connection to Ray: start or join, check for room, report failures in one line."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from recbole_siger.common.numbers import whole_number
from recbole_siger.common.process import ending_orderly
from recbole_siger.errors import UserError
from recbole_siger.parallel.guard import guarding

__all__ = [
    "actor_rows",
    "address_of_environment",
    "check_room",
    "connected",
    "failure_line",
    "interruptible",
    "rooms",
]

IN_FLIGHT = 2
"""Numbers that an actor of :func:`actor_rows` is given at a time: one to work on, one waiting."""

# Ray's handler of interrupts first finishes a step. Ray's new output prints at any value of `verbose`.
_SWITCHES = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
_SECONDS_TO_CONNECT = 10.0
_LOCAL = (None, "", "local")
# The line of a traceback, or of a message of Ray, that names the exception.
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")
# gRPC may kill the process that a head forks for a client (grpc/grpc#43055, grpcio 1.81 and later).
_NO_SERVER = "Starting Ray client server failed"


def address_of_environment() -> str | None:
    """Return the address of a cluster from ``RAY_ADDRESS``; None starts Ray on this machine."""
    return os.environ.get("RAY_ADDRESS") or None


def actor_rows(
    worker: type, arguments: tuple[Any, ...], numbers: Sequence[int], workers: int, needs: Mapping[str, int]
) -> Iterable[dict[str, Any]]:
    """Call a pool of actors of Ray Data for each number; yield the rows as they are finished.

    Ray Data pauses the actors when rows wait for this process.

    Args:
        worker: Class of the actors; an instance takes ``{"number": [one number]}`` and returns columns.
        arguments: Arguments of the class.
        numbers: The numbers.
        workers: Number of actors.
        needs: CPUs, and GPUs, of each actor: ``{"CPU": 1}``.
    """
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False  # the commands report their progress
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    found = items.map_batches(
        worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=IN_FLIGHT),
        fn_constructor_args=arguments,
        num_cpus=needs["CPU"],
        num_gpus=needs.get("GPU"),
    )
    rows: Iterable[dict[str, Any]] = found.iter_rows()
    return rows


@contextmanager
def connected(
    address: str | None, command: str, *, option: str = "--address", library: str = "tune"
) -> Iterator[tuple[bool, str]]:
    """Connect to Ray for the duration of the block.

    A connection that this process already has is used and stays open. Otherwise the block joins the cluster
    at ``address``, or starts Ray on this machine; such a Ray listens on the loopback interface only.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; None or ``local`` starts Ray on this machine.
        command: The command that requires Ray, for errors.
        option: Where the address was given, for errors.
        library: Ray's library that the block uses: ``tune``, ``train`` or ``data``.

    Yields:
        Whether this process is a remote client of the cluster, and a line about Ray's nodes.

    Raises:
        UserError: If Ray is not installed or not reachable, or if Ray fails within the block.
    """
    try:
        import ray

        importlib.import_module(f"ray.{library}")  # a library has requirements of its own
    except ImportError as error:
        raise UserError(f"{command} requires Ray ({error}): pip install 'ray[tune]>=2.40'") from None
    own = not ray.is_initialized()
    with guarding() if own and address in _LOCAL else nullcontext():
        if own:
            _start(address, option)
        try:
            with ending_orderly(), _loss_in_one_line():  # in the place of the handler that Ray has set
                yield ray.util.client.ray.is_connected(), _nodes_line()
        finally:
            if own:
                ray.shutdown()


@contextmanager
def _loss_in_one_line() -> Iterator[None]:
    """Turn Ray's errors in the block into one line."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:  # the cluster is lost, or a task on its head failed
        raise UserError(f"Ray: {failure_line(str(error))}") from None
    except ConnectionError as error:
        if type(error) is not ConnectionError:  # a closed pipe of this process
            raise
        why = _line(error).rstrip(".")
        raise UserError(f"Ray: the cluster is lost ({why}); finished work is stored, resume it") from None


def _start(address: str | None, option: str) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    given = f"{option}={address}"
    errors = (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError)
    if address in _LOCAL:
        try:
            with _on_loopback():
                ray.init("local", include_dashboard=False, **quiet)
        except Exception as error:  # a start that times out is a plain Exception
            raise UserError(f"Ray does not start on this machine: {_line(error)}") from None
        return
    if address != "auto":
        _check_reachable(str(address), given)
    try:
        ray.init(address, **quiet)
    except ImportError as error:
        raise UserError(f"{given}: {_line(error)}; pip install 'ray[client]'") from None
    except errors as error:
        raise _unreached(given, error) from None


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that starts in the block listen on the loopback interface only.

    Ray listens on all interfaces of a Linux machine. ``ray.init`` has no option for this: it replaces
    127.0.0.1 by the machine's outer address. On macOS and Windows Ray uses the loopback by default; the flag
    below makes that choice.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_reachable(address: str, given: str) -> None:
    """Reject an address where nothing listens; Ray would try for many minutes and ignore interrupts."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or (number := whole_number(port)) is None or number > 65535:
        raise UserError(f"{given}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), number), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise _unreached(given, error) from None


def _unreached(given: str, error: Exception) -> UserError:
    if _NO_SERVER in str(error):
        return UserError(
            f"{given}: {_NO_SERVER}: try again; GRPC_ENABLE_FORK_SUPPORT=0 in the shell of "
            "`ray start --head` prevents it"
        )
    return UserError(f"{given}: no Ray there: {_line(error)}; start it with `ray start --head`")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _nodes_line() -> str:
    import ray

    total, n_nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
    cpus, gpus = (total.get(name, 0.0) for name in ("CPU", "GPU"))
    return f"Ray: {n_nodes} node{'s'[: n_nodes > 1]}, {cpus:g} CPU, {gpus:g} GPU"


def check_room(n: int, needed: Mapping[str, float], asked: str, fix: str) -> None:
    """Reject more processes than Ray's nodes can run; Ray would wait for another node.

    Args:
        n: Processes, >= 1.
        needed: Resources of each process, as for :func:`rooms`.
        asked: The options that ask for them, for the error.
        fix: What the user can do, for the error.

    Raises:
        UserError: If fewer than ``n`` processes fit.
    """
    if n > (room := rooms(needed)):
        each = " and ".join(f"{amount:g} {name}" for name, amount in needed.items() if amount)
        raise UserError(
            f"{asked}: a process requires {each} on one node, and there is room for {room} of {n} "
            f"({_nodes_line()}); {fix}"
        )


def rooms(needed: Mapping[str, float]) -> int:
    """Return how many processes Ray's nodes can run at a time, each with all its resources on one node.

    Args:
        needed: Ray's resources of a process, such as ``{"CPU": 1.0, "GPU": 0.25}``.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = [(name, amount) for name, amount in needed.items() if amount > 0]
    # 1e-9 compensates for rounding: ten tenths are one.
    return sum(min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted) for node in nodes)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interrupt or a SIGTERM end the search at once, and switch off Ray's own output."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    talk = logging.getLogger("ray.tune")
    level = talk.level
    talk.setLevel(logging.CRITICAL)  # a failed trial is a row of the table; Ray's folder has its traceback
    kept = {name: os.environ.get(name) for name in _SWITCHES}
    os.environ.update(_SWITCHES)
    try:
        with ending_orderly():
            yield
    finally:
        talk.setLevel(level)
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def failure_line(trace: str) -> str:
    r"""Return the last exception of a text by Ray, such as a traceback of a failed trial, in one line.

    >>> failure_line("Failure # 1\nTraceback:\n  File x\nrecbole_siger.errors.UserError: too\n big\n")
    'too big'
    """
    lines = [line for line in trace.splitlines() if line.strip() and not line.startswith("Failure #")]
    starts = [i for i, line in enumerate(lines) if _RAISED.match(line)]
    reason = " ".join(" ".join(lines[starts[-1] if starts else 0 :]).split())
    return reason.removeprefix("recbole_siger.errors.UserError: ") or "failed without a message"
