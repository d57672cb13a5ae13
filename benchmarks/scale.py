"""How do the memory and the time of a training step grow with the number of users?

    python -m benchmarks.scale --quick
    python -m benchmarks.scale --out=performance.jsonl --knn=performance.jsonl --plot=scale.png

For U users there are U / 5 items and 20 interactions a user (18 in training), with uneven popularities, and
two modalities of 64 features near a 24-dimensional subspace. Embeddings are 32 wide. Every model has a
process of its own. The stages are timed one after the other, and each has its own peak of memory: reading the
files (by this package's dataset, and by RecBole's for comparison), the split with its loaders and negative
sampler, the model with its graphs, and training steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from recbole.data.dataset import Dataset
from recbole.utils import init_seed

from benchmarks.graphs import peak, random_features, reset_peak, status
from benchmarks.measure import print_table, write_records
from benchmarks.scale_plot import plot
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.loading import split_and_load
from recbole_siger.model.acceleration import accelerate
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.kinds import build_model
from recbole_siger.training.settings import run_settings
from recbole_siger.training.trainer import build_trainer

USERS = (10_000, 50_000, 200_000, 1_000_000)
USERS_PER_ITEM, WIDTH = 5, 64
SPLITS = {"train": 18, "valid": 1, "test": 1}
SUBJECTS = ("SIGER", "LightGCN", "RecBole's dataset")
N_STEPS = 3
NAME = "drawn"


def main() -> None:
    """Measure and print; write JSON lines and a plot if requested."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--users", nargs="+", type=int, default=list(USERS))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--embedding_size", type=int, default=32)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--plot", type=Path, help="PNG of time and memory against users and items")
    parser.add_argument("--knn", type=Path, help="JSON lines of benchmarks.graphs, also drawn")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in its own process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    records = []
    for n_users in (2_000, 10_000) if options.quick else options.users:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder) / NAME, n_users)
            for subject in options.subjects:
                task = {"folder": folder, "subject": subject, "embedding_size": options.embedding_size}
                facts = {"benchmark": "scale", "n_users": n_users, "subject": subject}
                records.append({**facts, **in_own_process(task)})
                write_records(options.out, records[-1:])
                print_record(records[-1])
    if options.plot:
        plot(records, options.knn, options.plot)


def write_dataset(folder: Path, n_users: int) -> None:
    """Write three splits and the features, with ids of seven digits."""
    from pyarrow import csv, table

    folder.mkdir(parents=True)
    n_items, rng = n_users // USERS_PER_ITEM, np.random.default_rng(1)
    names = {"user": [f"u{i:07d}" for i in range(n_users)], "item": [f"i{i:06d}" for i in range(n_items)]}
    users, items = np.array(names["user"], dtype=object), np.array(names["item"], dtype=object)
    for split, each in SPLITS.items():
        user = np.repeat(np.arange(n_users), each)
        item = (n_items * rng.random(len(user)) ** 2).astype(np.int64)
        if split == "train":  # each item occurs
            item[rng.permutation(len(item))[:n_items]] = np.arange(n_items)
        options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        with (folder / f"{NAME}.{split}.inter").open("wb") as stream:
            stream.write(b"user_id:token\titem_id:token\n")
            csv.write_csv(table({"user": users[user], "item": items[item]}), stream, options)
    for modality in ("image", "text"):
        np.save(folder / f"{NAME}.{modality}.npy", random_features(n_items, WIDTH, noise=False).numpy())
        (folder / f"{NAME}.{modality}.ids").write_text("".join(f"{item}\n" for item in names["item"]))
    (folder / f"{NAME}.yaml").write_text(
        "benchmark_filename: [train, valid, test]\nload_col:\n  inter: [user_id, item_id]\n"
        "protocol: mmrec\nfeatures: [image, text]\n",
        encoding="utf-8",
    )


def in_own_process(task: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a fresh Python."""
    command = [sys.executable, "-m", "benchmarks.scale", f"--one={json.dumps(task)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: str, subject: str, embedding_size: int) -> dict[str, Any]:
    """Build one model, stage by stage, and train a few batches; or read with RecBole's dataset only."""
    logging.disable(logging.INFO)
    stages: dict[str, dict[str, float]] = {}
    with contextlib.redirect_stderr(io.StringIO()):
        config = make_config(folder, subject, embedding_size)
        init_seed(config.run.seed, config["reproducibility"])
        with run_settings(config):
            if subject == SUBJECTS[-1]:
                with stage(stages, "read"):
                    dataset: Any = Dataset(config)
                return {"n_items": dataset.item_num - 1, "stages": stages}
            with stage(stages, "read"):
                dataset = MultimodalDataset(config)
            with stage(stages, "split"):
                loaders = split_and_load(config, dataset)
            with stage(stages, "model"):
                model = build_model(config, loaders[0]._dataset)
                accelerate(model)
            train_steps(config, model, loaders[0], stages)
    return {"n_items": dataset.item_num - 1, "n_interactions": len(dataset.inter_feat), "stages": stages}


def make_config(folder: str, subject: str, embedding_size: int) -> Config:
    """Make the configuration: defaults, but for the number of layers of LightGCN, as SIGER has."""
    values: dict[str, Any] = {
        "data_path": folder, "saved": False, "cache_dir": "none", "embedding_size": embedding_size,
    }  # fmt: skip
    if subject == "SIGER":
        values |= {"contrast_negatives": "batch", "knn_method": "ann"}
    elif subject == "LightGCN":
        values |= {"n_layers": 3}
    return Config("LightGCN" if subject == SUBJECTS[-1] else subject, NAME, config_dict=values)


def train_steps(config: Config, model: Any, train: Any, stages: dict[str, dict[str, float]]) -> None:
    """Train a few batches; the time of a step is the median, without the first step."""
    optimizer = build_trainer(config, model, RunFolder(Path(config["data_path"]))).optimizer
    model.train()
    seconds = []
    with stage(stages, "step"):
        for batch in islice(train, N_STEPS + 1):
            start = time.process_time()
            optimizer.zero_grad()
            losses: Any = model.calculate_loss(batch)
            losses = sum(losses) if isinstance(losses, tuple) else losses
            losses.backward()
            optimizer.step()
            seconds.append(time.process_time() - start)
    stages["step"]["cpu_seconds"] = statistics.median(seconds[1:])


@contextlib.contextmanager
def stage(stages: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Record seconds, processor seconds and memory of a stage, in MiB of the process."""
    reset_peak()
    wall, processor = time.perf_counter(), time.process_time()
    yield
    stages[name] = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - processor,
        "peak_mib": peak(),
        "after_mib": status("VmRSS"),
    }


def print_record(record: dict[str, Any]) -> None:
    """Print the stages of one measurement."""
    title = f"{record['subject']}, {record['n_users']:,} users"
    if "failed" in record:
        print(f"{title}: failed: {record['failed']}", flush=True)
        return
    print_table(
        title,
        ("stage", "processor s", "peak MiB", "MiB after"),
        [(n, s["cpu_seconds"], s["peak_mib"], s["after_mib"]) for n, s in record["stages"].items()],
    )


if __name__ == "__main__":
    main()
