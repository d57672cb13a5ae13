"""The parts of ``benchmarks.gpu``: each prints lines for the summary, after ``> ``, and adds JSON lines."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.epoch import make_epoch
from benchmarks.measure import interleave, machine, spread, write_records
from benchmarks.shapes import write_dataset
from benchmarks.step import NAIVE, build, compare_losses, make_step
from recbole_siger.config import Config
from recbole_siger.model.device import CUDA, Choices, force_choices
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.training.settings import run_settings

__all__ = ["main"]

STEPS = (NAIVE, "SIGER, float32", "SIGER, bfloat16", "naive, features frozen", "RecBole's LightGCN")


class Bench:
    """What a part needs: the data, the device, the size, and where results go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.part, self.out, self.device = options.part, options.out, torch.device(options.device)
        self.quick, self.data_path = options.quick, options.data_path
        self.shape = "tiny" if options.quick else "baby"
        self.folder = options.out / "work"
        self.card: dict[str, Any] = {"gpu_id": "0" if options.device == "cuda" else ""}

    def say(self, line: str) -> None:
        """Print a line of the summary."""
        print(f"> {line}", flush=True)

    def keep(self, **record: Any) -> None:
        """Add a JSON line."""
        write_records(self.out / "records.jsonl", [{"benchmark": f"gpu {self.part}", **record}])

    def rounds(self, n: int) -> int:
        """Return the number of rounds: one or two in a rehearsal."""
        return min(n, 2) if self.quick else n

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the seconds of a call, until the device is ready."""
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start


# ---- the parts


def data(bench: Bench) -> None:
    """Write the dataset that the other parts read, and the facts of the machine."""
    real = write_dataset(bench.folder, bench.shape, bench.data_path)
    facts = {**machine(), "cuda": torch.version.cuda, "driver": _driver()}
    (bench.out / "machine.json").write_text(json.dumps(facts), encoding="utf-8")
    bench.say(f"{bench.shape}, {'real' if real else 'drawn'} interactions, random features 4096 and 384 wide")


def step(bench: Bench) -> None:
    """Time a training step of each candidate, one after the other, so that a time limit leaves the first."""
    worst = compare_losses(bench.folder, bench.shape, noise_eps=0.0, **bench.card)  # a GPU draws other noise
    bench.say(f"losses differ from the naive model's by at most {worst:.1e} (relative)")
    naive = 0.0
    for name in STEPS:
        run = make_step(bench.folder, bench.shape, name, **bench.card)
        seconds = spread(interleave({name: run}, bench.rounds(15), warmup=3)[name])
        naive = naive or seconds["median"]
        ratio = naive / seconds["median"]
        bench.say(f"{name:32} {seconds['median'] * 1e3:8.2f} ms  {ratio:6.1f} x faster than naive")
        bench.keep(candidate=name, shape=bench.shape, seconds=seconds, ratio=ratio)


def launches(bench: Bench) -> None:
    """Count the kernel launches of a step, and the share of time in which the device computes."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    for name in ("SIGER, float32", NAIVE):
        run = make_step(bench.folder, bench.shape, name, **bench.card)
        for _ in range(3):
            run()
        bench.wait()
        n_steps = bench.rounds(5)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            wall = bench.seconds(lambda: [run() for _ in range(n_steps)])  # noqa: B023
        events = [e for e in seen.key_averages() if not getattr(e, "is_user_annotation", False)]
        n = sum(e.count for e in events if "LaunchKernel" in e.key) / n_steps
        events = [e for e in events if e.device_type == DeviceType.CUDA]  # kernels and copies, not operators
        busy = sum(e.self_device_time_total for e in events) / 1e6
        bench.say(
            f"{name:32} {n:6.0f} launches a step, device {busy / n_steps * 1e3:.2f} ms a step, "
            f"busy {busy / wall:.0%} of the time"
        )
        kernels = sorted(events, key=lambda e: e.self_device_time_total, reverse=True)[:8]
        table = {e.key[:80]: [e.count / n_steps, e.self_device_time_total / n_steps] for e in kernels}
        bench.keep(
            candidate=name, launches=n, device_seconds=busy / n_steps, wall=wall / n_steps, kernels=table
        )
        if name != NAIVE:
            bench.say(
                "longest: "
                + ", ".join(f"{key[:28]} {spent:.0f} us" for key, (_, spent) in [*table.items()][:4])
            )


def captured(bench: Bench) -> None:
    """Compare eager epochs with epochs of captured steps; the first epoch captures and is not counted."""
    for model in ("SIGER", "FREEDOM", "MGCN"):
        seconds, note = {}, ""
        for mode in ("none", "auto"):
            experiment = build(
                bench.folder, bench.shape, model, **bench.card, compile=mode, epochs=3, eval_step=0
            )
            experiment.trainer.fit(experiment.train_data, None)
            rows = experiment.trainer.seconds[1:]
            seconds[mode] = min(rows) / len(experiment.train_data)
            if mode == "auto" and (steps := experiment.trainer.step_graph):
                note = steps.reason or f"{steps.n_captures} captures"
        ratio = seconds["none"] / seconds["auto"]
        note = note or "not captured"
        bench.say(
            f"{model:8} {seconds['none'] * 1e3:7.2f} ms a step eager, {seconds['auto'] * 1e3:7.2f} with "
            f"compile=auto ({ratio:.2f} x; {note[:60]})"
        )
        bench.keep(candidate=model, seconds_a_step=seconds, note=note)


def epoch(bench: Bench) -> None:
    """Time an epoch with sampling, and validation."""
    found = {}
    for name in ("SIGER, float32", "RecBole's LightGCN", NAIVE):
        train, validate = make_epoch(bench.folder, bench.shape, name, **bench.card)
        n = bench.rounds(1 if name == NAIVE else 4)
        bench.seconds(train)
        found[name] = (
            min(bench.seconds(train) for _ in range(n)),
            min(bench.seconds(validate) for _ in range(2)),
        )
    for name, (trained, validated) in found.items():
        ratio = sum(found[NAIVE]) / (trained + validated)
        seconds = f"{trained:8.3f} s training, {validated:.3f} s validation"
        bench.say(f"{name:32} {seconds}  {ratio:6.1f} x faster than naive")
        bench.keep(candidate=name, seconds_train=trained, seconds_valid=validated, ratio=ratio)


def precision(bench: Bench) -> None:
    """Train SIGER a few epochs in float32, TF32 and bfloat16; compare Recall and time.

    The features are the dataset's own where they are given: those of the other parts are random.
    """
    epochs, metric = (2 if bench.quick else 12), "recall@20"
    given = bench.data_path and bench.data_path / bench.shape / f"{bench.shape}.yaml"
    folder = bench.data_path if given and given.is_file() else bench.folder
    where = {"runs": bench.folder, "cache_dir": str(bench.folder / "graphs"), **bench.card}
    for name, kind, matmul in (
        ("float32", "float32", "highest"),
        ("TF32", "float32", "high"),
        ("bfloat16 features", "bfloat16", "highest"),
    ):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(matmul)
        try:
            options = {"feature_dtype": kind, "epochs": epochs, "stopping_step": epochs, **where}
            experiment = build(folder, bench.shape, "SIGER", **options)
            experiment.trainer.fit(experiment.train_data, experiment.valid_data)
        finally:
            torch.set_float32_matmul_precision(before)
        scores, seconds = experiment.trainer.scores, min(experiment.trainer.seconds)
        best = max(scores.values())
        bench.say(f"{name:18} best {metric} of {epochs} epochs {best:.4f}, {seconds:.3f} s an epoch")
        bench.keep(candidate=name, recall=best, scores=scores, seconds=seconds)


def evaluation(bench: Bench) -> None:
    """Compare full-ranking evaluation with RecBole's at 512 users a batch."""
    from benchmarks.evaluation import SENSIBLE, Contestant

    values = {"data_path": str(bench.folder), "protocol": "recbole", "metric_decimal_place": 16}
    values |= {"checkpoint_dir": str(bench.folder), **bench.card}
    ours = Contestant(bench.shape, values, None, ours=True)
    theirs = Contestant(bench.shape, values, SENSIBLE)
    times = interleave({"ours": ours.run, "RecBole": theirs.run}, bench.rounds(5))
    ratio = spread(times["RecBole"])["median"] / spread(times["ours"])["median"]
    worst = max(abs(theirs.metrics[key] - value) for key, value in ours.metrics.items())
    for name, seconds in times.items():
        bench.say(f"{name:8} {spread(seconds)['median'] * 1e3:8.1f} ms an evaluation")
    bench.say(f"{ratio:.2f} x faster; metrics differ by at most {worst:.1e}")
    bench.keep(seconds={name: spread(s) for name, s in times.items()}, ratio=ratio, difference=worst)


def products(bench: Bench) -> None:
    """Time the variants of a product of a graph and a table, forward; then a step with some of them."""
    model = build(bench.folder, bench.shape, "LightGCN", **bench.card).model
    matrix = model.norm_adj_matrix.product
    assert isinstance(matrix, SparseMatrix)
    crow, col, val = matrix.crow, matrix.col, matrix.val
    x = torch.randn(matrix.shape[1], 64, device=bench.device)
    wide = torch.sparse_csr_tensor(crow.long(), col.long(), val, matrix.shape, check_invariants=False)
    narrow = torch.sparse_csr_tensor(crow.int(), col.int(), val, matrix.shape, check_invariants=False)
    coo = wide.to_sparse_coo().coalesce()
    variants = {
        "CSR, 64-bit indices, kept": lambda: wide @ x,
        "CSR, 32-bit indices, kept": lambda: narrow @ x,
        "CSR, built at each call": lambda: (
            torch.sparse_csr_tensor(crow, col, val, matrix.shape, check_invariants=False) @ x
        ),
        "embedding_bag": lambda: functional.embedding_bag(
            col, x, crow, mode="sum", per_sample_weights=val, include_last_offset=True
        ),
        "COO": lambda: torch.sparse.mm(coo, x),
        "matrix(x) of the package": lambda: matrix(x),
    }
    run, kinds = make_step(bench.folder, bench.shape, "SIGER, float32", **bench.card), {}
    for size in (32, 64, 128):
        kinds[f"a step of SIGER, bags of {size}"] = replace(CUDA, bag_size=size)
    kinds["a step of SIGER, cuSPARSE"] = replace(CUDA, product="csr")
    steps = {name: partial(_forced, run, these) for name, these in kinds.items()}
    for part in (variants, steps):
        for name, seconds in interleave(part, bench.rounds(20), warmup=3).items():
            bench.say(f"{name:28} {spread(seconds)['median'] * 1e3:8.3f} ms")
            bench.keep(candidate=name, nnz=len(val), seconds=spread(seconds))


def _forced(run: Callable[[], None], these: Choices) -> None:
    with force_choices(these):
        run()


def side_by_side(bench: Bench) -> None:
    """Train one run, then two at the same time, on one device."""
    epochs, alone = (2 if bench.quick else 6), 0.0
    for n in (1, 2):
        seconds = [run["seconds_per_epoch"] for run in _trainings(bench, n, epochs)]
        alone = alone or seconds[0]
        shown = ", ".join(f"{one:.3f}" for one in seconds)
        bench.say(f"{n} at a time: {shown} s an epoch, throughput {n * alone / max(seconds):.2f} x")
        bench.keep(n=n, seconds_per_epoch=seconds)


def _trainings(bench: Bench, n: int, epochs: int) -> list[dict[str, Any]]:
    """Start runs of the command line at the same time; return their results."""
    base = [sys.executable, "-m", "recbole_siger.cli", "run", "--model=SIGER", f"--dataset={bench.shape}"]
    base += [f"--data_path={bench.folder}", f"--cache_dir={bench.folder / 'graphs'}", "--threads=1"]
    base += [f"--epochs={epochs}", "--save_embeddings=False", "--save_features=False"]
    base += [f"--gpu_id={bench.card['gpu_id']}"]
    folders = [bench.folder / f"run-{n}-{i}" for i in range(n)]
    processes = [
        subprocess.Popen([*base, f"--run_dir={folder}", f"--seed={i + 1}"], stdout=subprocess.DEVNULL)
        for i, folder in enumerate(folders)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"exit codes of {n} trainings at a time: {codes}")
    return [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders]


def _driver() -> str | None:
    try:
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.partition("\n")[0] or None


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part
    for part in (data, step, launches, captured, epoch, precision, evaluation, products, side_by_side)
}


def main(words: Sequence[str] | None = None) -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data_path", type=Path)
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device")
    bench = Bench(options)
    if options.part == "data":
        data(bench)
        return
    values = {"data_path": str(bench.folder), **bench.card}
    with run_settings(Config("BPR", bench.shape, config_dict=values)):
        PARTS[options.part](bench)


if __name__ == "__main__":
    main()
