"""How long does a training step of SIGER take, compared with the naive way and with RecBole's LightGCN?

    python -m benchmarks.step --data_path=dataset --shapes baby sports
    python -m benchmarks.step --data_path=dataset --shapes baby --models SIGER MENTOR --rounds 3

Each candidate trains on the same batches of real interactions, in turn; features are random, 4096 and 384
wide. First the losses of one step are compared with the losses of the naive model; they must be equal. With
``--models``, models are timed with their defaults, and ratios are to the first.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import fresh_process_peak, interleave, print_table, spread
from benchmarks.naive.siger import NaiveSIGER
from benchmarks.shapes import measure_shapes, shape_parser
from recbole_siger.config import Config
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import Experiment, build_experiment
from recbole_siger.training.settings import run_settings

CANDIDATES = {
    "naive, features trained": ("SIGER", {}),
    "naive, features frozen": ("SIGER", {}),
    "SIGER, features trained": ("SIGER", {"train_features": True}),
    "SIGER, float32": ("SIGER", {}),
    "SIGER, bfloat16": ("SIGER", {"feature_dtype": "bfloat16"}),
    "RecBole's LightGCN": ("LightGCN", {"n_layers": 3}),
    "RecBole's LightGCN, our product": ("LightGCN", {"n_layers": 3}),
}
NAIVE = "naive, features trained"


def main() -> None:
    """Measure and print."""
    parser = shape_parser(__doc__, ["baby", "sports"])
    parser.add_argument("--rounds", type=int, default=15, help="counted steps of each candidate")
    parser.add_argument("--models", nargs="+", help="names of models to time in place of the candidates")
    parser.add_argument("--memory", action="store_true", help="also the peak of each, in a separate process")
    options = parser.parse_args()
    shapes, rounds = (["baby"], 5) if options.quick else (options.shapes, options.rounds)
    names = tuple(options.models or CANDIDATES)
    measure_shapes(
        shapes, options, lambda folder, shape: measure_shape(folder, shape, names, rounds, options.memory)
    )


def measure_shape(
    folder: Path, shape: str, names: Sequence[str], rounds: int, memory: bool
) -> list[dict[str, Any]]:
    """Time every candidate on one dataset."""
    if NAIVE in names:
        difference = compare_losses(folder, shape)
        print(f"{shape}: largest difference to the naive losses {difference:.1e} (relative)")
    steps = {name: make_step(folder, shape, name) for name in names}
    times = {name: spread(s) for name, s in interleave(steps, rounds, warmup=2).items()}
    del steps
    records = []
    for name, seconds in times.items():
        record = {"benchmark": "step", "shape": shape, "candidate": name, "seconds": seconds}
        record["ratio"] = times[names[0]]["median"] / seconds["median"]
        if memory:
            record["peak_mib"] = fresh_process_peak(run_alone, folder, shape, name)[1]
        records.append(record)
    print_table(
        f"A training step, {shape}",
        ("candidate", "ms", "from", "to", f"{names[0]} / it", "peak MiB"),
        [
            (
                r["candidate"],
                *(1000 * r["seconds"][k] for k in ("median", "min", "max")),
                r["ratio"],
                r.get("peak_mib", ""),
            )
            for r in records
        ],
    )
    return records


def build(folder: Path, shape: str, model: str, *, runs: Path | None = None, **options: Any) -> Experiment:
    """Build the parts of one run, silently; graphs are kept in ``folder`` for the next candidate.

    Args:
        folder: Where the dataset is.
        shape: Name of the dataset.
        model: Name of the model.
        runs: Where a training writes; by default ``folder``.
        options: Further configuration.
    """
    values = {"data_path": str(folder), "saved": False, "cache_dir": str(folder / "graphs"), **options}
    logging.disable(logging.INFO)
    with contextlib.redirect_stderr(io.StringIO()):
        return build_experiment(Config(model, shape, config_dict=values), RunFolder(runs or folder))


def candidate(folder: Path, shape: str, name: str, **more: Any) -> tuple[Experiment, Callable[[Any], None]]:
    """Build a candidate, or a model by name; return its parts and a function that trains one batch."""
    kind, options = CANDIDATES.get(name, (name, {}))
    experiment = build(folder, shape, kind, **options, **more)
    model, optimizer = experiment.model, experiment.trainer.optimizer
    if name.startswith("naive"):
        model = NaiveSIGER(model, train_features=name.endswith("trained"))
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=experiment.config["learning_rate"]
        )
    if name == "RecBole's LightGCN":
        model.norm_adj_matrix = model.get_norm_adj_mat().to(experiment.config["device"])
    model.train()

    def train(batch: Any) -> None:
        with run_settings(experiment.config):
            optimizer.zero_grad()
            losses = model.calculate_loss(batch)
            (sum(losses) if isinstance(losses, tuple) else losses).backward()
            optimizer.step()

    return experiment, train


def make_step(folder: Path, shape: str, name: str, **more: Any) -> Callable[[], None]:
    """Return a function that trains one batch; the batches are the same for each candidate."""
    experiment, train = candidate(folder, shape, name, **more)
    device = experiment.config["device"]
    batches = itertools.cycle([b.to(device) for b in itertools.islice(experiment.train_data, 4)])
    return lambda: train(next(batches))


def run_alone(folder: Path, shape: str, name: str) -> None:
    """Train a few steps in a fresh process, whose peak of memory is then read."""
    step = make_step(folder, shape, name, cache_dir="none")
    for _ in range(4):
        step()


def compare_losses(folder: Path, shape: str, **options: Any) -> float:
    """Return the largest relative difference of a loss term between SIGER and the naive model."""
    experiment = build(folder, shape, "SIGER", **options)
    model = experiment.model
    naive = NaiveSIGER(model, train_features=False)
    naive.generator.set_state(model.generator.get_state())
    batch = next(iter(experiment.train_data)).to(experiment.config["device"])
    pairs = zip(model.calculate_loss(batch), naive.calculate_loss(batch), strict=True)
    return max(abs(a.item() - b.item()) / abs(b.item()) for a, b in pairs)


if __name__ == "__main__":
    main()
