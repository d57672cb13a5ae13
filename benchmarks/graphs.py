"""Time and memory of item graphs against the number of items, and against the dense method.

Every measurement runs in a separate process, so the peak of memory above the loaded inputs belongs to the
measurement. Times are wall time and processor time; on a busy machine only processor time is comparable:

    python -m benchmarks.graphs --quick
    python -m benchmarks.graphs --out=results/performance.jsonl --plot=results/graphs.png
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import write_records
from recbole_siger.graph.co_occurrence import co_occurrence_graph
from recbole_siger.graph.knn import semantic_graph

SPORTS = 18_357
K = 10
NAMES = ("dense", "exact", "ann", "co_occurrence")
USERS_PER_ITEM, ITEMS_PER_USER = 2, 20  # 20 interactions, 2 users for each item: 800 pairs for each item
# Users and interactions of each, for a million items: about 2.5 and 8 billion pairs.
HEAVY = ((250_000, 100), (1_000, 2_830))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print one line each, then ratios and exponents; write JSON lines and a plot if requested."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, within 100 seconds on two cores")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--plot", type=Path, help="PNG of time and memory against the number of items")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most items to measure")
    parser.add_argument("--graphs", nargs="+", choices=NAMES, default=list(NAMES), help="measure these only")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in its own process
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'graph':14} {'items':>9} {'width':>6} {'seconds':>9} {'cpu s':>9} {'MiB':>8}  note")
    results = []
    for task in tasks(options.quick, options.largest):
        if task["graph"] not in options.graphs:
            continue
        results.append(in_own_process(task))
        print(line(results[-1]), flush=True)
        write_records(options.out, [{"benchmark": "graphs", **results[-1]}])
    print_ratios(results)
    print_growth(results)
    if options.plot:
        plot(results, options.plot)


def tasks(quick: bool, largest: int) -> list[dict[str, Any]]:
    """List the measurements; the dense method and the blocks alternate."""
    if quick:
        wide, n_dense = (512, 384), 5_000
        sizes = {
            "exact": (2_500, 5_000, 10_000),
            "ann": (5_000, 20_000),
            "co_occurrence": (5_000, 20_000, 50_000),
        }
    else:
        wide, n_dense = (4096, 384), SPORTS
        sizes = {
            "exact": (5_000, 10_000, 20_000, 50_000, 100_000),
            "co_occurrence": (5_000, 20_000, 100_000, 1_000_000),
            "ann": (5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000),
        }
    against = [
        {"graph": graph, "n_items": n_dense, "width": width, "noise": True}
        for width in wide
        for graph in ("dense", "exact")
    ]
    grown = [
        {"graph": graph, "n_items": n, "width": 0 if graph == "co_occurrence" else 384}
        for graph, ns in sizes.items()
        for n in ns
        if n <= largest
    ]
    heavy = [
        {"graph": "co_occurrence", "n_items": 1_000_000, "width": 0, "n_users": users, "each": each}
        for users, each in HEAVY
        if not quick and largest >= 1_000_000
    ]
    return against + grown + heavy


def in_own_process(task: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a fresh Python."""
    command = [sys.executable, "-m", "benchmarks.graphs", f"--one={json.dumps(task)}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {
            **task,
            "failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode,
        }
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    graph: str, n_items: int, width: int, noise: bool = False, n_users: int = 0, each: int = 0
) -> dict[str, Any]:
    """Build one graph and return time and memory."""
    if graph == "co_occurrence":
        heavy, n_users = bool(n_users), n_users or n_items * USERS_PER_ITEM
        edges = random_edges(n_items, n_users, each or ITEMS_PER_USER)
        build: Callable[[], Any] = lambda: co_occurrence_graph(edges, n_users, n_items, 5)  # noqa: E731
    else:
        x = random_features(n_items, width, noise)
        build = (lambda: dense(x)) if graph == "dense" else (lambda: semantic_graph(x, K, method=graph))
    messages = logged_messages("recbole_siger.graph.ann")
    before = reset_peak()
    wall, processor = time.perf_counter(), time.process_time()
    built = build()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    result = {
        "graph": graph, "n_items": n_items, "width": width, "noise": noise, "seconds": wall,
        "cpu_seconds": processor, "peak_mib": peak() - before, "n_edges": built._nnz(),
    }  # fmt: skip
    if found := re.search(r"recall@\d+ ([\d.]+)", " ".join(messages)):
        result["recall"] = float(found[1])
    if graph == "co_occurrence":
        history = torch.bincount(edges[0])
        result["n_pairs"] = int((history * history).sum())
        if heavy:
            result |= {"n_users": n_users, "n_edges_given": edges.shape[1]}
        else:
            start = time.perf_counter()
            build()
            result["seconds_warm"] = time.perf_counter() - start
    return result


def logged_messages(name: str) -> list[str]:
    """Return a list to which the messages of a logger are added from now on."""
    messages: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger(name)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return messages


def dense(features: Tensor) -> Tensor:
    """Build the graph from all cosines at once, as most public code does."""
    unit = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    value, column = (unit @ unit.T).topk(K, dim=1)
    row = torch.arange(len(features)).repeat_interleave(K)
    return torch.sparse_coo_tensor(
        torch.stack((row, column.flatten())), value.flatten(), (len(features),) * 2
    ).coalesce()


def random_features(n_items: int, width: int, noise: bool) -> Tensor:
    """Draw noise, where all cosines are close, or rows near 24 dimensions, such as learned features."""
    generator = torch.Generator().manual_seed(1)
    x = torch.empty(n_items, width)
    basis = torch.randn(24, width, generator=generator)
    for part in x.split(10_000):
        part.normal_(generator=generator)
        if not noise:
            part.mul_(0.3).addmm_(torch.randn(len(part), 24, generator=generator), basis)
    x[0] = 0
    return x


def random_edges(n_items: int, n_users: int, each: int) -> Tensor:
    """Draw ``each`` interactions a user, with item popularities as uneven as in shops: users then items."""
    generator = torch.Generator().manual_seed(1)
    edges = torch.empty((2, n_users * each), dtype=torch.int64)
    torch.arange(n_users * each, out=edges[0]).floor_divide_(each)
    edges[1] = torch.rand(n_users * each, generator=generator).square_().mul_(n_items)
    return edges


def reset_peak() -> float:
    """Reset the recorded peak of this process's memory; return its current memory, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> float:
    """Return the peak of this process's memory since the reset, in MiB."""
    return status("VmHWM")


def status(name: str) -> float:
    """Read one memory number of this process from Linux, in MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def line(result: dict[str, Any]) -> str:
    """Return one row of the table."""
    head = f"{result['graph']:14} {result['n_items']:9,} {result['width']:6}"
    if "failed" in result:
        return f"{head} failed: {result['failed']}"
    notes = [f"recall {result['recall']:.4f}"] if "recall" in result else []
    if "n_pairs" in result:
        notes.append(f"{result['n_pairs'] / 1e6:,.1f} M pairs")
    if "seconds_warm" in result:
        notes.append(f"warm {result['seconds_warm']:.3f} s")
    numbers = f"{result['seconds']:9.2f} {result['cpu_seconds']:9.2f} {result['peak_mib']:8.0f}"
    return f"{head} {numbers}  {', '.join(notes)}"


def print_ratios(results: list[dict[str, Any]]) -> None:
    """Print the ratios of the blocks' time and memory to the dense method's."""
    pairs: dict[str, list[dict[str, Any]]] = {"dense": [], "exact": []}
    for result in results:
        if result.get("noise") and "failed" not in result:
            pairs[result["graph"]].append(result)
    for ours, theirs in zip(pairs["exact"], pairs["dense"], strict=False):
        print(
            f"exact / dense, {ours['n_items']:,} x {ours['width']}: "
            + ", ".join(
                f"{name} {ours[name] / theirs[name]:.3f}" for name in ("seconds", "cpu_seconds", "peak_mib")
            )
        )
    if pairs["dense"]:
        total = [sum(one["cpu_seconds"] for one in pairs[graph]) for graph in ("exact", "dense")]
        most = [max(one["peak_mib"] for one in pairs[graph]) for graph in ("exact", "dense")]
        print(f"exact / dense, both: cpu_seconds {total[0] / total[1]:.3f}, peak_mib {most[0] / most[1]:.3f}")


def print_growth(results: list[dict[str, Any]]) -> None:
    """Print the exponent p of a fit of time and memory to N^p."""
    for graph in ("exact", "ann", "co_occurrence"):
        found = curve(results, graph)
        if len(found) > 1:
            fits = (f"{name} N^{exponent(found, name):.2f}" for name in ("cpu_seconds", "peak_mib"))
            print(f"growth of {graph}: {', '.join(fits)}")


def curve(results: list[dict[str, Any]], graph: str) -> list[dict[str, Any]]:
    """Select one graph's measurements against the number of items."""
    return [
        one
        for one in results
        if one["graph"] == graph and not {"failed", "n_users"} & set(one) and not one.get("noise")
    ]


def exponent(results: list[dict[str, Any]], name: str) -> float:
    """Fit a line to the logarithms by least squares; return its slope."""
    x = [math.log(one["n_items"]) for one in results]
    y = [math.log(max(one[name], 1e-3)) for one in results]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory against the number of items, both axes logarithmic."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("--plot: matplotlib is missing; pip install 'recbole-siger[figures]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = {
        "exact": ("kNN, exact, 384 wide", "o-"),
        "ann": ("kNN, approximate, 384 wide", "s--"),
        "co_occurrence": ("co-occurrence, 20 users an item", "^:"),
    }
    for axis, name, label in zip(
        axes, ("cpu_seconds", "peak_mib"), ("processor seconds", "MiB above the inputs"), strict=True
    ):
        for graph, (text, style) in names.items():
            found = curve(results, graph)
            axis.plot([r["n_items"] for r in found], [r[name] for r in found], style, label=text)
        axis.set(xscale="log", yscale="log", xlabel="items", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
