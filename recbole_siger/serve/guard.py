"""What every request passes before its route: limits, token, origin; and what every answer gets."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from recbole_siger.serve.metrics import Metrics
from recbole_siger.serve.params import ServeParams

__all__ = ["INTERNAL_ERROR", "Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

INTERNAL_ERROR = "internal error; the server's log has the details"
BODY_SECONDS = 30.0
"""Most seconds in which the body of a request arrives."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]

_log = logging.getLogger(__name__)


class _Refusal(Exception):  # noqa: N818  # an answer, not an error of the program
    """A request that is refused before its route."""

    def __init__(self, status: int, message: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.status, self.message, self.headers = status, message, list(headers)
        super().__init__(message)


class Guard:
    """An ASGI application around another application.

    - More than ``max_requests`` at a time: status 503.
    - With a token, every route but ``open_paths`` requires ``Authorization: Bearer TOKEN``: status 401.
    - Without a token the server answers only requests whose ``Host`` names this machine, so that a page of
      another site cannot reach it through a name that resolves to 127.0.0.1: status 421.
    - A request that changes something and comes from a page of another origin: status 403.
    - A body of more than ``max_body_bytes``, or that does not arrive within 30 seconds: 413, 408.
    - An exception of the application is logged, and the client gets status 500 without its text.

    Args:
        app: The application.
        params: Limits.
        token: The token, or None.
        metrics: Where requests are counted.
        open_paths: Paths that require no token.
        routes: First parts of all paths, the labels of the counts.
    """

    def __init__(
        self,
        app: Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]],
        params: ServeParams,
        token: str | None,
        metrics: Metrics,
        open_paths: Iterable[str],
        routes: Iterable[str],
    ) -> None:
        self._app, self._params, self._metrics = app, params, metrics
        self._expected = None if token is None else f"Bearer {token}".encode("ascii")
        self._open, self._routes = frozenset(open_paths), frozenset(routes)
        self._hosts = _LOCAL_NAMES | {params.host.lower()}
        self._n_requests = 0
        self.draining = False
        """Whether each answer asks the client to close the connection."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, answer = time.perf_counter(), _Answer(send, self)
        self._n_requests += 1
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, await self._admitted(scope, receive), answer)
        except _Refusal as refusal:
            await answer.fail(refusal.status, refusal.message, refusal.headers)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            await answer.fail(500, INTERNAL_ERROR)
        finally:
            self._n_requests -= 1
            self._metrics.in_flight.dec()
            self._metrics.finished(self._label(scope["path"]), answer.status, time.perf_counter() - start)

    def _label(self, path: str) -> str:
        first = "/" + path.removeprefix("/").partition("/")[0]
        return first if first in self._routes else "other"

    async def _admitted(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """Return what gives the application the body; refuse the request if it breaks a rule."""
        headers = dict(scope["headers"])
        if self._n_requests > self._params.max_requests:
            raise _Refusal(503, "the server has too many requests; try again", [(b"retry-after", b"1")])
        self._check_caller(scope, headers)
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return receive
        body = await self._body(headers, receive)
        sent = False

        async def whole() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return whole

    def _check_caller(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._expected is None:
            if _name_of(host) not in self._hosts:
                raise _Refusal(421, "Host: is not this machine; use 127.0.0.1 or localhost")
        elif scope["path"] not in self._open and not hmac.compare_digest(
            headers.get(b"authorization", b""), self._expected
        ):
            challenge = [(b"www-authenticate", b"Bearer")]
            raise _Refusal(401, "requires the header `Authorization: Bearer TOKEN`", challenge)
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and scope["method"] not in _SAFE_METHODS and urlsplit(origin).netloc != host:
            raise _Refusal(403, "Origin: a page of another site cannot change this server")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit, parts, size = self._params.max_body_bytes, [], 0
        too_long = _Refusal(413, f"body: at most {limit:,} bytes", [(b"connection", b"close")])
        if int(headers.get(b"content-length", b"0")) > limit:  # the server has checked that it is a number
            raise too_long
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refusal(400, "body: the connection was closed")
                    parts.append(message.get("body", b""))
                    more, size = message.get("more_body", False), size + len(parts[-1])
                    if size > limit:
                        raise too_long
        except TimeoutError:
            late = f"body: did not arrive within {BODY_SECONDS:.0f} seconds"
            raise _Refusal(408, late, [(b"connection", b"close")]) from None
        return b"".join(parts)


class _Answer:
    """Sends an answer with the headers of all answers; sends a failure if nothing was sent."""

    def __init__(self, send: Send, guard: Guard) -> None:
        self._send, self._guard = send, guard
        self._started = False
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            own = {name for name, _ in message["headers"]}
            added = [pair for pair in _HEADERS if pair[0] not in own]
            if self._guard.draining and b"connection" not in own:
                added.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *added]
        await self._send(message)

    async def fail(self, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send one line of JSON, unless an answer has begun."""
        if self._started:
            return
        body = json.dumps({"error": text}, separators=(",", ":")).encode()
        length = (b"content-length", str(len(body)).encode())
        kind = (b"content-type", b"application/json")
        await self({"type": "http.response.start", "status": status, "headers": [kind, length, *headers]})
        await self({"type": "http.response.body", "body": body})


def _name_of(host: str) -> str:
    """Return the name of a ``Host`` header without its port.

    >>> [_name_of(host) for host in ("localhost:8000", "[::1]:8000", "127.0.0.1")]
    ['localhost', '::1', '127.0.0.1']
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
