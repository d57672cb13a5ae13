"""Compare an epoch of training batches with RecBole's loader, and an epoch of LightGCN with RecBole's.

The loaders' batches are compared too: row by row and negative by negative.

    python -m benchmarks.loader --quick
    python -m benchmarks.loader --data_path=dataset --dataset=baby --out=results/loader.jsonl
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write_records
from benchmarks.shapes import SHAPES, write_dataset
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loaders import TrainLoader
from recbole_siger.data.sampler import NegativeSampler
from recbole_siger.model.acceleration import accelerate
from recbole_siger.training.trainer import build_trainer

# isort: split
from recbole.data.dataloader import TrainDataLoader
from recbole.sampler import Sampler
from recbole.trainer import Trainer
from recbole.utils import init_seed


def arguments(description: str) -> argparse.Namespace:
    """Read the options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: within a minute")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument("--data_path", help="folder of the datasets; by default random data of Baby's shape")
    parser.add_argument("--dataset", choices=SHAPES, default="baby")
    parser.add_argument("--out", type=Path, help="JSON lines are added to this file")
    return parser.parse_args()


@contextmanager
def data(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the configuration that finds the data, real or random."""
    with tempfile.TemporaryDirectory() as folder:
        if options.data_path is None:
            write_dataset(Path(folder), options.dataset, None, features=False)
        values = {"data_path": options.data_path or folder, "protocol": "recbole", "gpu_id": ""}
        yield {**values, "metric_decimal_place": 16, "checkpoint_dir": folder}


Times = dict[str, list[tuple[float, float]]]


def interleave(rounds: int, contestants: dict[str, Callable[[], Any]]) -> Times:
    """Run each contestant once a round, after an uncounted run; return seconds, wall and processor."""
    times: Times = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            wall, busy = time.perf_counter(), time.process_time()
            run()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - busy))
    return times


def report(question: str, times: Times, out: Path | None, **facts: Any) -> None:
    """Print median, spread and ratio to ours, one line each, and store them.

    On a busy machine, processor seconds are more comparable than wall seconds; both are printed.
    """
    columns = {name: list(zip(*pairs, strict=True)) for name, pairs in times.items()}
    medians = {name: [statistics.median(column) for column in both] for name, both in columns.items()}
    for name, (wall, busy) in columns.items():
        ratios = [a / b for a, b in zip(medians[name], medians["ours"], strict=True)]
        print(
            f"{question:10} {name:18} {medians[name][0] * 1e3:8.1f} ms ({min(wall) * 1e3:.1f} to "
            f"{max(wall) * 1e3:.1f}), {ratios[0]:.2f} x ours; processor {medians[name][1] * 1e3:.1f} ms, "
            f"{ratios[1]:.2f} x ours"
        )
        record = {"benchmark": question, "candidate": name, "wall": wall, "processor": busy, "ratios": ratios}
        write_records(out, [record | facts])


def same_batches(one: Any, other: Any) -> bool:
    """Return whether two loaders give the same epoch from the same seed."""
    epochs = []
    for loader in (one, other):
        init_seed(2020, True)
        loader.generator.manual_seed(2020)
        epochs.append([dict(batch.interaction) for batch in loader])
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(*epochs, strict=True)
    )


def main() -> None:
    """Print the two comparisons."""
    options = arguments(__doc__ or "")
    rounds = options.rounds or (5 if options.quick else 15)
    with data(options) as values:
        config = Config("LightGCN", options.dataset, config_dict=values)
        train = MultimodalDataset(config).build()[0]
        theirs = TrainDataLoader(config, train, Sampler(["train"], [train]).set_phase("train"), shuffle=True)
        ours = TrainLoader(config, train, NegativeSampler(train), shuffle=True)
        facts = {"rows": len(train), "torch": torch.__version__, "threads": torch.get_num_threads()}
        print(f"{len(train)} rows, {len(ours)} batches; the same batches: {same_batches(ours, theirs)}")
        times = interleave(rounds, {"RecBole": lambda: list(theirs), "ours": lambda: list(ours)})
        report("loader", times, options.out, **facts)

        plain, fast = (config.model_class(config, train) for _ in range(2))
        accelerate(fast)
        before, after = Trainer(config, plain), build_trainer(config, fast, None)
        times = interleave(
            1 if options.quick else 5,
            {
                "RecBole": lambda: before._train_epoch(theirs, 0),
                "ours": lambda: after._train_epoch(ours, 0),
            },
        )
        report("LightGCN", times, options.out, **facts)


if __name__ == "__main__":
    main()
