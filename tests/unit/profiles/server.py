"""A small server with OpenAI's chat interface, which fails as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def answer(text: str) -> Reply:
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return 200, {}, json.dumps(body).encode()


@dataclass
class Server:
    """What was asked, and how each request is answered.

    Attributes:
        reply: Number of the request and its body -> status, headers and body; by default a good answer.
        requests: Bodies, in the order of arrival.
        headers: Headers of each request.
        most_at_once: Requests that were open at a time.
    """

    url: str = ""
    reply: Callable[[int, dict[str, Any]], Reply] = lambda number, body: answer(f"Profile\n{number}.")
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    open: int = 0

    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.requests]


@contextmanager
def serving() -> Iterator[Server]:
    server, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(body)
                server.headers.append({**dict(self.headers), "path": self.path})
                server.times.append(time.monotonic())
                server.open += 1
                server.most_at_once = max(server.most_at_once, server.open)
            try:
                status, headers, data = server.reply(number, body)
            finally:
                with lock:
                    server.open -= 1
            try:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # the client has given up
                pass

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
