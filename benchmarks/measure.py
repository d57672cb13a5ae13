"""Functions of all benchmarks: the machine, interleaved timing, memory of a fresh process, tables."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from recbole_siger.common.machine import processor_name
from recbole_siger.training.progress import peak_memory_mib

__all__ = ["fresh_process_peak", "interleave", "machine", "print_table", "spread", "write_records"]


def machine() -> dict[str, Any]:
    """Return the conditions of a measurement: processor, threads, versions, date."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx_bf16": " amx_bf16" in _read("/proc/cpuinfo"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "scipy", "recbole")},
    }


def _read(file: str) -> str:
    path = Path(file)
    return path.read_text() if path.exists() else ""


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Time candidates in turn, A B C A B C, so that a slow minute of the machine affects all of them.

    Args:
        candidates: Name and function to run.
        rounds: Counted runs of each candidate.
        warmup: Uncounted runs of each candidate at the start.

    Returns:
        Seconds of each counted run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            gc.collect()
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum in seconds."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def fresh_process_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call a module-level function in a new process; return its result and the process's peak, in MiB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    result = function(*arguments)
    return result, peak_memory_mib(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; floats get three significant digits."""
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print(
            "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        )
    print(flush=True)


def write_records(out: Path | None, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records to a file of JSON lines, each with the machine."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = machine()
    with out.open("a", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps({**record, "machine": facts}) + "\n")
