"""Requests of HTTP clients on this machine to `recbole-siger serve`, beside the same call in Python.

The run folder is drawn at the size of Baby: 19,445 users, 7,050 items, random vectors of 128 numbers. The
server is a process of its own, and so is the load: asyncio clients with open connections, each with one
request at a time. Every request is `GET /recommend?user=U&k=10` for a random user. The number of requests is
bounded. The processor time of the caller in Python, or of the server, depends less on other work of the
machine than the wall time.

    python -m benchmarks.serve --quick
    python -m benchmarks.serve --out=results/performance.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.measure import print_table, write_records
from benchmarks.recommend import draw_run
from recbole_siger.options.command import command_params
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.serve.params import ServeParams
from recbole_siger.serve.service import Service

N_USERS, N_ITEMS, WIDTH, K = 19_445, 7_050, 128, 10
CLIENTS = (1, 16, 64)
MAX_SECONDS = 60.0
"""Most seconds of one measurement of the load."""


class Measured(NamedTuple):
    """Seconds of each request, of all together, failed requests, and processor seconds."""

    seconds: list[float]
    wall: float
    failed: int
    processor: float


@contextlib.contextmanager
def running_server(folder: str, threads: int) -> Iterator[tuple[int, int]]:
    """Start the server, yield its port and process id, and end it; fail if its end is not orderly."""
    words = [sys.executable, "-m", "recbole_siger.cli", "serve", folder, "--port=0", f"--threads={threads}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            while not lines or "serving at" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], "the server has ended"
            found = re.search(r":(\d+)/", lines[-1])
            assert found
            yield int(found[1]), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def load(port: int, n_clients: int, n_requests: int) -> tuple[list[float], float, int]:
    """Send requests from one process; return the seconds of each, of all, and how many failed."""
    return asyncio.run(_load(port, n_clients, n_requests))


async def _load(port: int, n_clients: int, n_requests: int) -> tuple[list[float], float, int]:
    users = iter(np.random.default_rng(11).integers(0, N_USERS, n_requests).tolist())
    seconds: list[float] = []
    failed = 0
    start = time.perf_counter()

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for user in users:
            begin = time.perf_counter()
            if begin - start > MAX_SECONDS:
                break
            status = await _ask(reader, writer, f"/recommend?user=u{user}&k={K}")
            seconds.append(time.perf_counter() - begin)
            failed += status != 200
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return seconds, time.perf_counter() - start, failed


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    """Send one request on an open connection; return the status of the answer."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode("ascii"))
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, flags=re.I)
    assert length
    await reader.readexactly(int(length[1]))
    return int(head.split(b" ", 2)[1])


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used; NaN where the system has no ``/proc``."""
    file = Path(f"/proc/{process}/stat")
    if not file.exists():
        return float("nan")
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def calls(function: Callable[[str], object], n_calls: int) -> list[float]:
    """Return the seconds of each of ``n_calls`` calls with random users."""
    seconds = []
    for user in np.random.default_rng(11).integers(0, N_USERS, n_calls).tolist():
        start = time.perf_counter()
        function(f"u{user}")
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the requests")
    parser.add_argument("--requests", type=int, default=10_000, help="requests for each number of clients")
    parser.add_argument("--threads", type=int, default=2, help="threads of the server")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    n_requests = options.requests // (20 if options.quick else 1)
    before, measured = os.getloadavg()[0], dict[str, Measured]()
    with tempfile.TemporaryDirectory() as folder:
        draw_run(Path(folder), N_USERS, N_ITEMS, WIDTH)
        measured |= _in_python(folder, n_requests)
        with (
            running_server(folder, options.threads) as (port, process),
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            pool.submit(load, port, 4, 200).result()  # warm up
            for n in CLIENTS:
                name = f"HTTP, {n} client{'s' if n > 1 else ''}"
                start = processor_seconds(process)
                result = pool.submit(load, port, n, n_requests).result()
                measured[name] = Measured(*result, processor_seconds(process) - start)
    _print(measured, before, options)


def _in_python(folder: str, n_calls: int) -> dict[str, Measured]:
    """Time the same call without HTTP, with one thread as in the server."""
    torch.set_num_threads(1)
    recommender, service = Recommender.load(folder), Service(folder, command_params(ServeParams, "serve", {}))
    candidates: dict[str, Callable[[str], object]] = {
        "Python, Recommender.recommend": lambda user: recommender.recommend([user], K),
        "Python, Service.recommend": lambda user: service.recommend(user, K),
    }
    found = {}
    for name, function in candidates.items():
        calls(function, 50)
        start = time.process_time()
        seconds = calls(function, n_calls)
        found[name] = Measured(seconds, sum(seconds), 0, time.process_time() - start)
    return found


def _print(measured: dict[str, Measured], before: float, options: argparse.Namespace) -> None:
    rows, records = [], []
    for name, (seconds, wall, failed, processor) in measured.items():
        p50, p99 = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
        processor_ms = 1000 * processor / len(seconds)
        rows.append([name, len(seconds) / wall, p50, p99, processor_ms, len(seconds), failed])
        facts = {"requests": len(seconds), "failed": failed, "server_threads": options.threads}
        speed = {
            "per_second": len(seconds) / wall,
            "p50_ms": p50,
            "p99_ms": p99,
            "processor_ms": processor_ms,
        }
        load_average = {"load_before": before, "load_after": os.getloadavg()[0]}
        records.append({"benchmark": "serve", "name": name, **facts, **speed, **load_average})
    header = [
        "caller",
        "requests a second",
        "p50 ms",
        "p99 ms",
        "processor ms a request",
        "requests",
        "failed",
    ]
    print_table(f"{N_USERS:,} users, {N_ITEMS:,} items, d {WIDTH}, k {K}", header, rows)
    print(f"load of the machine: {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    write_records(options.out, records)


if __name__ == "__main__":
    main()
