"""Answers of HTTP servers within bounds: an address that can be used, seconds in total, bytes in total."""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from recbole_siger.errors import UserError

__all__ = ["TooLongError", "check_address", "open_url", "read_whole"]


class TooLongError(Exception):
    """An answer has more bytes than the caller accepts."""


def check_address(option: str, url: str, example: str) -> str:
    """Return an address without the ``/`` at its end.

    Args:
        option: Name of the option, for the message.
        url: The address.
        example: A correct address, for the message.

    Raises:
        UserError: If it is not an http or https address of printable ASCII characters, or has a name or
            password. The message never shows what is before an ``@``.
    """
    shown = url.rpartition("@")[2]
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:  # brackets that hold no IPv6 address, a port that is not a number
        good = False
    if not good or not re.fullmatch(r"[!-~]+", url):
        raise UserError(
            f"{option}={shown!r}: write an http or https address such as {example}, in ASCII characters "
            "without blanks, name or password (write other characters as %XX, a host in its xn-- form)."
        )
    return url.rstrip("/")


def open_url(
    request: urllib.request.Request, *, stall: float, total: float, redirects: bool = True
) -> http.client.HTTPResponse:
    """Send a request and return the response after its header.

    Args:
        request: The request.
        stall: Seconds without a byte after which the connection fails.
        total: Seconds for connection, header and body together.
        redirects: Whether a redirect is followed.

    Raises:
        OSError: If the connection fails, stalls, or takes longer than ``total``.
    """
    end = time.monotonic() + total

    class Response(_Response):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.limit(sock, stall, end)

    handlers = _handlers(Response) if redirects else [*_handlers(Response), _NoRedirect()]
    response = urllib.request.build_opener(*handlers).open(request, timeout=min(stall, total))
    assert isinstance(response, http.client.HTTPResponse)
    return response


def read_whole(response: Any, n_bytes: int) -> bytes:
    """Return the body of a response.

    Raises:
        TooLongError: If it has more than ``n_bytes``; no more than that is read.
        OSError: As :func:`open_url`.
    """
    data: bytes = response.read(n_bytes + 1)
    if len(data) > n_bytes:
        raise TooLongError(f"an answer of more than {n_bytes:,} bytes")
    return data


class _Deadline(io.RawIOBase):
    """The bytes of a socket until a moment; each read waits for ``stall`` seconds at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, stall: float, end: float) -> None:
        self._raw, self._sock, self._stall, self._end = raw, sock, stall, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._sock.settimeout(min(self._stall, left))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def limit(self, sock: socket.socket, stall: float, end: float) -> None:
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Deadline(raw, sock, stall, end))


def _handlers(response: type[http.client.HTTPResponse]) -> list[urllib.request.BaseHandler]:
    """Return handlers of http and https whose connections make such responses."""

    class Plain(http.client.HTTPConnection):
        response_class = response

    class Secure(http.client.HTTPSConnection):
        response_class = response

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_named(Plain), req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_named(Secure), req, context=getattr(self, "_context", None))

    return [PlainHandler(), SecureHandler()]


def _named(connection: Callable[..., Any]) -> Any:
    """Return a class of connections under the type that urllib's stubs expect."""
    return connection


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key of a request to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None
