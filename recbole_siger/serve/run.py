"""Run the server in this process: socket, signals, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import torch
import uvicorn

from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.serve.app import Server, make_server
from recbole_siger.serve.params import ServeParams, check_host, read_token
from recbole_siger.serve.service import Service

__all__ = ["open_socket", "serve"]


def serve(source: str | Path, params: ServeParams, report: Callable[[str], None] = print_line) -> None:
    """Serve a run until SIGTERM or SIGINT; it waits ``stop_seconds`` at most for requests in flight.

    SIGHUP loads the newest complete run, see :meth:`~recbole_siger.serve.service.Service.reload`.

    Args:
        source: A run folder, or a folder of runs.
        params: Options.
        report: Takes each line for the user.

    Raises:
        UserError: If the address is not allowed or not free, the token is unusable, or no run can be loaded.
    """
    token = read_token(params)
    check_host(params, token)
    torch.set_num_threads(1)  # each request has a thread of its own
    prometheus_client.disable_created_metrics()  # a line more for each count
    with contextlib.closing(open_socket(params)) as listener:
        service = Service(source, params)
        loaded = service.loaded
        report(
            f"{loaded.folder}: {loaded.model} on {loaded.dataset}, {len(loaded.users):,} users, "
            f"{len(loaded.items):,} items, {len(loaded.images):,} pictures"
        )
        unanswered = _Process(make_server(service, token), params, report).run(listener)
    report(f"stopped; requests without an answer: {unanswered}")


def open_socket(params: ServeParams) -> socket.socket:
    """Return a socket with the address of the server, which does not listen yet.

    Raises:
        UserError: If the address is unknown or not free.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            params.host, params.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sets TCP_NODELAY for a socket that names TCP alone; without it, each answer waits 40 ms.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"command line: --host={params.host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if params.reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(
            f"command line: --host={params.host} --port={params.port}: {error.strerror}; choose another "
            "--port (0 takes a free port), or set --reuse_port for both servers"
        ) from None
    listener.setblocking(False)
    return listener


class _Uvicorn(uvicorn.Server):
    """A server that leaves the signals to :class:`_Process`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class _Process:
    """The server in this process, and what the signals do."""

    def __init__(self, server: Server, params: ServeParams, report: Callable[[str], None]) -> None:
        self._server, self._params, self._report = server, params, report
        config = uvicorn.Config(
            server.guard,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=params.stop_seconds,
        )
        self._uvicorn = _Uvicorn(config)
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, listener: socket.socket) -> int:
        """Serve until a signal has ended the server; return how many requests were not answered."""
        try:
            return asyncio.run(self._serve(listener))
        finally:
            self._server.close()

    async def _serve(self, listener: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, listener)
        loop.add_signal_handler(signal.SIGHUP, self._start, self._reload)
        self._start(self._announce, listener)
        await self._uvicorn.serve(sockets=[listener])
        return len(self._uvicorn.server_state.tasks)

    async def _announce(self, listener: socket.socket) -> None:
        """Print the address when the server accepts connections."""
        while not self._uvicorn.started:
            await asyncio.sleep(0.01)
        host, port = self._params.host, listener.getsockname()[1]
        access = "with a token" if self._server.has_token else "without a token"
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._report(f"serving at http://{place}/ {access}; Ctrl-C ends the server")

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        task = asyncio.ensure_future(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, listener: socket.socket) -> None:
        """Begin to end at the first signal; end without waiting at the second."""
        if self._server.guard.draining:
            self._uvicorn.should_exit = self._uvicorn.force_exit = True
            return
        self._server.guard.draining = True
        self._start(self._drain, listener)

    async def _drain(self, listener: socket.socket) -> None:
        """Stop to accept connections; let open connections close after their next answer.

        A client that keeps a connection open may send its next request at any moment. Each answer now says
        ``Connection: close``, so the client uses another connection, and no request is lost.
        """
        for _ in range(100):  # connections that the kernel has accepted for us
            if not select.select([listener], [], [], 0)[0]:
                break
            await asyncio.sleep(0)
        for one in self._uvicorn.servers:
            one.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._params.drain_seconds
        while self._uvicorn.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.02)
        self._uvicorn.should_exit = True

    async def _reload(self) -> None:
        report = await self._server.reload()
        text = {
            "reloaded": f"reloaded: serving {report['run']}",
            "unchanged": f"reload: {report['run']} is the newest complete run already",
            "failed": f"reload failed, still serving {report['run']}: {report['error']}",
        }
        self._report(text[report["status"]])
