"""The socket of a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from recbole_siger.serve.run import open_socket
from tests.unit.serve.conftest import params


def test_an_answer_does_not_wait_for_the_client() -> None:
    """With Nagle's algorithm, the body of an answer waits 40 ms for the acknowledgement of its head."""

    async def option_of_a_connection() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            found.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(accepted, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            nodelay = await asyncio.wait_for(found, 30)
            writer.close()
        return nodelay

    with contextlib.closing(open_socket(params(host="127.0.0.1", port=0))) as listener:
        assert asyncio.run(option_of_a_connection()) == 1
