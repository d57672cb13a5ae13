"""What does one training in several processes gain, and what does a step send?

    python -m benchmarks.processes --data_path=dataset
    python -m benchmarks.processes --quick

One process and two processes train the same batches of SIGER in turn: the batch of the options and twice that
batch. Each process has one thread. The two processes form a gloo group, as Ray Train makes it for `nproc`.
The messages of a step are counted where torch is called, and compared with the bytes of the loopback.

A plan for more processes needs the computing of one share. One process measures it alone: of 2, 4 or 8
processes, each computes the losses of every second, fourth or eighth row. The time of a step is then
computing + 2 (n - 1) / n x bytes of the gradients / bandwidth, by the ring algorithm of gloo and NCCL. The
computing is processor time, which depends less on other work of the machine than the clock.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from recbole.data.interaction import Interaction, cat_interactions

from benchmarks.measure import print_table, spread
from benchmarks.shapes import measure_shapes, shape_parser
from benchmarks.step import build
from recbole_siger.parallel.shares import Share, losses_of_share
from recbole_siger.training import trainer as trainer_module
from recbole_siger.training.settings import run_settings

BATCH = 2048
SIZES = (1, 2, 4, 8)
LINKS = {  # nominal bytes a second in one direction
    "1 Gb/s Ethernet": 0.125e9,
    "10 Gb/s Ethernet": 1.25e9,
    "100 Gb/s InfiniBand": 12.5e9,
    "PCIe 4.0 x16": 31.5e9,
    "NVLink 4": 450e9,
}


def main() -> None:
    """Measure and print."""
    parser = shape_parser(__doc__, ["baby"])
    parser.add_argument("--rounds", type=int, default=4, help="counted turns of each candidate")
    parser.add_argument("--steps", type=int, default=2, help="training steps in each turn")
    options = parser.parse_args()
    rounds, steps = (1, 1) if options.quick else (options.rounds, options.steps)
    measure_shapes(options.shapes, options, lambda folder, shape: measure_shape(folder, shape, rounds, steps))


def measure_shape(folder: Path, shape: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure throughput, messages and shares on one dataset."""
    load = os.getloadavg()[0]
    with group(folder, shape, 1, steps) as one, group(folder, shape, 2, steps) as two:
        candidates: dict[str, Callable[[], dict[str, Any]]] = {
            f"{size} x {factor * BATCH // size} rows": partial(ask, "train", factor)
            for factor in (1, 2)
            for size, ask in ((1, one), (2, two))
        }
        for weak in (False, True):
            for size in SIZES:
                name = f"share of {size}, batch {BATCH * (size if weak else 1)}"
                candidates[name] = partial(one, "share", size, size if weak else 1)
        candidates["exchange alone"] = partial(two, "exchange")
        turns = in_turn(candidates, rounds)
        gradients = one("gradients")
    records = [
        {"benchmark": "processes", "shape": shape, "candidate": name, **summary(turns[name], steps)}
        for name in candidates
    ]
    records.append({"benchmark": "processes", "shape": shape, "candidate": "gradients", **gradients})
    loads = {"load_before": load, "load_after": os.getloadavg()[0]}
    print_throughput(shape, records, loads)
    print_plan(shape, records, gradients)
    return [{**record, **loads} for record in records]


def in_turn(
    candidates: Mapping[str, Callable[[], dict[str, Any]]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Call the candidates in turn, one uncounted turn first; return their answers."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates}
    for turn in range(1 + rounds):
        for name, run in candidates.items():
            answer = run()
            if turn:
                answers[name].append(answer)
    return answers


def summary(turns: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Return seconds of a step over all turns, and what each step sent."""
    found: dict[str, Any] = {"seconds": spread([turn["seconds"] / steps for turn in turns])}
    for key in ("processor", "waiting", "messages", "bytes", "loopback"):
        values = [turn[key] / steps for turn in turns if key in turn]
        if values:
            found[key] = min(values)
    return found


def print_throughput(shape: str, records: Sequence[Mapping[str, Any]], loads: Mapping[str, float]) -> None:
    """Print the steps of one and of two processes."""
    rows = []
    for record in records:
        if "messages" not in record:
            continue
        name, best = record["candidate"], record["seconds"]["min"]
        processes, rows_each = (int(word) for word in name.split(" ")[::2][:2])
        times = [1000 * record["seconds"][key] for key in ("min", "median", "max")]
        sent = (record["messages"], record["bytes"], record["loopback"] / processes)
        both = (1000 * record["processor"], 1000 * record["waiting"])
        rows.append([name, *times, processes * rows_each / best, *both, *map(int, sent)])
    load = "load {load_before:.1f} before, {load_after:.1f} after".format(**loads)
    header = (
        "processes x rows",
        "best ms",
        "median",
        "worst",
        "rows a second",
        "processor ms",
        "exchange ms",
        "messages",
        "bytes of a process",
        "of these on the loopback",
    )
    print_table(f"A training step of SIGER in processes, {shape}; {load}", header, rows)
    alone = next(r for r in records if r["candidate"] == "exchange alone")
    clock, processor = 1000 * alone["seconds"]["min"], 1000 * alone["processor"]
    print(f"the exchange alone, two processes: {clock:.2f} ms, processor {processor:.2f} ms\n")


def print_plan(shape: str, records: Sequence[Mapping[str, Any]], gradients: Mapping[str, Any]) -> None:
    """Print computing, by the processor's time, and step times for links of nominal speed."""
    best = {record["candidate"]: record["processor"] for record in records if "processor" in record}
    print(
        "a step exchanges {gradient_bytes} bytes of gradients; {rows_used} of {rows} rows of tables have a "
        "gradient, the batch has {nodes_of_batch} nodes; {frozen_bytes} bytes of frozen features stay".format(
            **gradients
        )
    )
    for weak in (False, True):
        what = f"each process has {BATCH} rows" if weak else f"the processes share {BATCH} rows"
        rows = []
        for size in SIZES:
            batch = BATCH * (size if weak else 1)
            computing = best[f"share of {size}, batch {batch}"]
            times = [step_seconds(computing, size, gradients, speed) for speed in LINKS.values()]
            rows.append([size, 1000 * computing, *(f"{1000 * t:.0f} ({batch / t:.0f})" for t in times)])
        header = ("processes", "computing ms", *(f"{link}: ms (rows/s)" for link in LINKS))
        print_table(f"Plan, {shape}: {what}", header, rows)


def step_seconds(computing: float, size: int, gradients: Mapping[str, Any], speed: float) -> float:
    """Return the seconds of a step: computing of one share, then a ring over a link of ``speed``."""
    n_bytes = gradients["gradient_bytes"] + 8 * gradients["parameters"]
    return computing + 2 * (size - 1) / size * n_bytes / speed


@contextmanager
def group(folder: Path, shape: str, size: int, steps: int) -> Iterator[Callable[..., dict[str, Any]]]:
    """Start processes that train together; yield the function that gives all of them one task."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(size)]
    workers = [
        context.Process(target=work, args=(there, folder, shape, rank, size, steps), daemon=True)
        for rank, (_, there) in enumerate(pipes)
    ]
    for worker, (_, there) in zip(workers, pipes, strict=True):
        worker.start()
        there.close()

    def ask(*task: Any) -> dict[str, Any]:
        for here, _ in pipes:
            here.send(task)
        answer: dict[str, Any] = {}
        for here, _ in reversed(pipes):
            answer = here.recv()
        return answer

    try:
        ask("ready")
        yield ask
        for here, _ in pipes:
            here.send(None)
    finally:
        for worker in workers:
            worker.join(60)
            worker.kill()


def work(channel: Connection, folder: Path, shape: str, rank: int, size: int, steps: int) -> None:
    """Be one process: build SIGER, then do one task after the other until None comes."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    worker = Worker(folder, shape, size, steps)
    for task, *words in iter(channel.recv, None):
        with run_settings(worker.experiment.config):
            channel.send(getattr(worker, task)(*words))
    if size > 1:
        dist.destroy_process_group()


class Worker:
    """The tasks of one process; messages and the seconds in which a step waits for them are counted."""

    def __init__(self, folder: Path, shape: str, size: int, steps: int) -> None:
        self.size, self.steps = size, steps
        self.waiting, self.messages, self.bytes = 0.0, 0, 0
        self._count_messages()
        self.experiment = build(folder, shape, "SIGER", train_batch_size=BATCH // size)
        self.model, self.optimizer = self.experiment.model, self.experiment.trainer.optimizer
        self.device = self.experiment.config["device"]
        self.model.train()
        self.model.on_epoch_start(0)
        longest = max(SIZES) if size == 1 else 2
        rows = list(itertools.islice(self.experiment.train_data, longest * steps))
        self.batches: dict[int, list[Interaction]] = {
            factor: [
                cat_interactions(rows[i * factor : (i + 1) * factor]).to(self.device) for i in range(steps)
            ]
            for factor in (SIZES if size == 1 else (1, 2))
        }

    def _count_messages(self) -> None:
        """Count each message of a step, and the seconds from its request to its end."""
        reduce, average = dist.all_reduce, trainer_module.average_gradients

        def counted(tensor: torch.Tensor) -> None:
            self.messages += 1
            self.bytes += tensor.nbytes
            reduce(tensor)

        def timed(*arguments: Any) -> None:
            start = time.perf_counter()
            with patch.object(dist, "all_reduce", counted):
                average(*arguments)
            self.waiting += time.perf_counter() - start

        patch.object(trainer_module, "average_gradients", timed).start()

    def ready(self) -> dict[str, Any]:
        """Answer after the construction."""
        return {}

    def steps_of(
        self, batches: Sequence[Interaction], losses_of: Callable[[Interaction], Any]
    ) -> dict[str, float]:
        """Train some batches; return the seconds of the clock and of the processor."""
        start, processor = time.perf_counter(), time.process_time()
        for batch in batches:
            self.optimizer.zero_grad()
            sum(losses_of(batch)).backward()
            self.optimizer.step()
        return self.since(start, processor)

    def since(self, start: float, processor: float) -> dict[str, float]:
        """Return the seconds since two readings; with CUDA, computing is read from the clock too."""
        if on_gpu := self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "processor": seconds if on_gpu else time.process_time() - processor}

    def train(self, factor: int) -> dict[str, Any]:
        """Train batches of ``factor`` times the batch of the options, with the other processes."""
        self.waiting, self.messages, self.bytes = 0.0, 0, 0
        before = loopback_bytes()
        if self.size > 1:
            dist.barrier()
        times = self.steps_of(
            self.batches[factor], lambda batch: losses_of_share(self.model, self.model.calculate_loss, batch)
        )
        return {
            **times,
            "waiting": self.waiting,
            "messages": self.messages,
            "bytes": self.bytes,
            "loopback": loopback_bytes() - before,
        }

    def share(self, size: int, factor: int) -> dict[str, Any]:
        """Train one share of each batch, alone."""
        self.model.share = Share(0, size)
        return self.steps_of(self.batches[factor], self.model.calculate_loss)

    def exchange(self) -> dict[str, Any]:
        """Average gradients without computing them."""
        dist.barrier()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        start, processor = time.perf_counter(), time.process_time()
        for _ in range(self.steps):
            trainer_module.average_gradients(parameters)
        return self.since(start, processor)

    def gradients(self) -> dict[str, Any]:
        """Count the gradients of a step, and how many of their rows are not zero."""
        self.optimizer.zero_grad()
        batch = self.batches[1][0]
        sum(losses_of_share(self.model, self.model.calculate_loss, batch)).backward()
        found = [p.grad for p in self.model.parameters() if p.grad is not None]
        tables = [grad for grad in found if grad.dim() == 2]
        used = sum(int((grad != 0).any(dim=1).sum()) for grad in tables)
        items = torch.cat([batch["item_id"], batch["neg_item_id"]])
        nodes = len(batch["user_id"].unique()) + len(items.unique())
        frozen = [t for t in self.model.raw_features.values() if not t.requires_grad]
        return {
            "gradient_bytes": sum(grad.nbytes for grad in found),
            "parameters": sum(p.requires_grad for p in self.model.parameters()),
            "frozen_bytes": sum(tensor.nbytes for tensor in frozen),
            "rows": sum(map(len, tables)),
            "rows_used": used,
            "nodes_of_batch": nodes,
        }


def loopback_bytes() -> int:
    """Return the bytes that this machine has sent to itself; 0 if the system does not count them."""
    file = Path("/proc/net/dev")
    lines = file.read_text(encoding="ascii").splitlines() if file.is_file() else []
    return next((int(line.split()[9]) for line in lines if line.lstrip().startswith("lo:")), 0)


if __name__ == "__main__":
    main()
