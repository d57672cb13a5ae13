"""What is the speed of two threads, and how does OpenMP's waiting policy change it?

    python -m benchmarks.threads --data_path=dataset --shapes baby

Each candidate is a process with its own environment, because OpenMP reads the environment when torch is
loaded. The processes train the same batches of SIGER in turn, so that other work on the machine slows all of
them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import interleave, print_table, spread
from benchmarks.shapes import measure_shapes, shape_parser

POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CANDIDATES: dict[str, tuple[int, dict[str, str]]] = {
    "1 thread": (1, {}),
    "2 threads, OpenMP's default": (2, {}),
    "2 threads, 1000 spins": (2, {"GOMP_SPINCOUNT": "1000"}),
    "2 threads, passive": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
}


def main() -> None:
    """Measure and print, or be one of the processes."""
    parser = shape_parser(__doc__, ["baby"])
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each candidate")
    parser.add_argument("--steps", type=int, default=10, help="training steps in each turn")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Path(options.worker[0]), options.shapes[0], int(options.worker[1]), options.steps)
        return
    rounds, steps = (1, 1) if options.quick else (options.rounds, options.steps)
    measure_shapes(options.shapes, options, lambda folder, shape: measure_shape(folder, shape, rounds, steps))


def measure_shape(folder: Path, shape: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Time every candidate on one dataset; seconds are those of one step."""
    workers = {name: start(folder, shape, steps, *how) for name, how in CANDIDATES.items()}
    load = os.getloadavg()[0]
    try:
        times = interleave({name: turn_of(worker) for name, worker in workers.items()}, rounds)
    finally:
        for worker in workers.values():
            worker.communicate()
    records = [
        {
            "benchmark": "threads",
            "shape": shape,
            "candidate": name,
            "seconds": spread([seconds / steps for seconds in times[name]]),
            "load_before": load,
            "load_after": os.getloadavg()[0],
        }
        for name in CANDIDATES
    ]
    print_table(
        f"A training step of SIGER, {shape}; load {load:.1f} before, {os.getloadavg()[0]:.1f} after",
        ("candidate", "ms", "from", "to"),
        [(r["candidate"], *(1000 * r["seconds"][k] for k in ("median", "min", "max"))) for r in records],
    )
    return records


def start(
    folder: Path, shape: str, steps: int, threads: int, policy: dict[str, str]
) -> subprocess.Popen[str]:
    """Start the process of a candidate; wait until its model is built."""
    environment = {key: value for key, value in os.environ.items() if key not in POLICY}
    environment |= {**policy, "OMP_NUM_THREADS": str(threads), "XDG_CACHE_HOME": str(folder / "cache")}
    words = [sys.executable, "-m", "benchmarks.threads", f"--shapes={shape}", f"--steps={steps}"]
    worker = subprocess.Popen(
        [*words, "--worker", str(folder), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    answer(worker)
    return worker


def turn_of(worker: subprocess.Popen[str]) -> Callable[[], None]:
    """Return the function that lets a process train its steps."""

    def turn() -> None:
        assert worker.stdin is not None
        print("go", file=worker.stdin, flush=True)
        answer(worker)

    return turn


def answer(worker: subprocess.Popen[str]) -> None:
    """Wait for a line of a process."""
    assert worker.stdout is not None
    if not worker.stdout.readline():
        raise RuntimeError(f"a process ended with exit code {worker.wait()}")


def work(folder: Path, shape: str, threads: int, steps: int) -> None:
    """Build SIGER, then train some steps for each line of the input."""
    import torch

    from benchmarks.step import candidate

    experiment, train = candidate(folder, shape, "SIGER, float32")
    torch.set_num_threads(threads)
    experiment.model.on_epoch_start(0)
    batches = [batch for _, batch in zip(range(steps), experiment.train_data, strict=False)]
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for batch in batches:
            train(batch)
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
