"""How long does an epoch take, including sampling and validation, and how much memory does a run use?

    python -m benchmarks.epoch --data_path=dataset --shapes baby sports
    python -m benchmarks.epoch --data_path=dataset --shapes baby --models SIGER MGCN FREEDOM BM3 LATTICE VBPR

Each candidate trains whole epochs in turn. The naive model has RecBole's own loader and sampler. Memory is
the peak of a separate process that builds the model, trains an epoch and validates. ``--without_memory``
skips these processes, which take most of the time on a GPU. An epoch includes the auxiliary steps of a model,
which train DiffMM's denoisers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import fresh_process_peak, interleave, print_table, spread
from benchmarks.shapes import measure_shapes, shape_parser
from benchmarks.step import NAIVE, candidate
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.testing.experiments import begin_epoch
from recbole_siger.training.settings import run_settings

NAMES = ("SIGER, float32", "SIGER, bfloat16", "RecBole's LightGCN")


def main() -> None:
    """Measure and print."""
    parser = shape_parser(__doc__, ["baby", "sports"])
    parser.add_argument("--rounds", type=int, default=3, help="counted epochs of each candidate")
    parser.add_argument("--naive", action="store_true", help="also one epoch of the naive model, for minutes")
    parser.add_argument("--without_memory", action="store_true", help="no peaks of separate processes")
    parser.add_argument("--models", nargs="+", help="names of models to time, with their defaults")
    options = parser.parse_args()
    shapes, rounds = (["baby"], 1) if options.quick else (options.shapes, options.rounds)
    names = (NAMES[0], NAMES[-1]) if options.quick else NAMES
    names = tuple(options.models or names)
    names = (*names, NAIVE) if options.naive else names

    def measure(folder: Path, shape: str) -> list[dict[str, Any]]:
        peaks = {} if options.without_memory else measure_peaks(folder, shape, names)
        return measure_shape(folder, shape, names, rounds, 0 if options.quick else 1, peaks)

    measure_shapes(shapes, options, measure)


def measure_peaks(folder: Path, shape: str, names: tuple[str, ...]) -> dict[str, float]:
    """Return the peak of memory of each candidate in a separate process, in MiB."""
    return {name: fresh_process_peak(run_alone, folder, shape, name)[1] for name in names}


def measure_shape(
    folder: Path,
    shape: str,
    names: tuple[str, ...],
    rounds: int,
    warmup: int,
    peaks: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Time every candidate on one dataset."""
    parts = {name: make_epoch(folder, shape, name) for name in names}
    naive = {name: parts.pop(name) for name in names if name == NAIVE}
    train = interleave({name: epoch for name, (epoch, _) in parts.items()}, rounds, warmup)
    valid = interleave({name: validate for name, (_, validate) in parts.items()}, rounds, warmup)
    for name, (epoch, validate) in naive.items():  # too slow for turns and repetitions
        train |= interleave({name: epoch}, 1, warmup=0)
        valid |= interleave({name: validate}, 1, warmup=0)
    records = [
        {
            "benchmark": "epoch",
            "shape": shape,
            "candidate": name,
            "seconds_train": spread(train[name]),
            "seconds_valid": spread(valid[name]),
            "peak_mib": peaks.get(name, ""),
        }
        for name in names
    ]
    print_table(
        f"An epoch, {shape}",
        (
            "candidate",
            "training s",
            "from",
            "to",
            "validation s",
            "both / training",
            "peak MiB",
        ),
        [
            (
                r["candidate"],
                *(r["seconds_train"][k] for k in ("median", "min", "max")),
                r["seconds_valid"]["median"],
                1 + r["seconds_valid"]["median"] / r["seconds_train"]["median"],
                r["peak_mib"],
            )
            for r in records
        ],
    )
    return records


def make_epoch(
    folder: Path, shape: str, name: str, **more: Any
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return functions that train one epoch and validate."""
    experiment, train = candidate(folder, shape, name, **more)
    loader, device, trainer = experiment.train_data, experiment.config["device"], experiment.trainer
    if name.startswith("naive"):
        from recbole.data.dataloader import TrainDataLoader
        from recbole.sampler import Sampler

        sampler = Sampler(["train"], [loader._dataset]).set_phase("train")
        loader = TrainDataLoader(experiment.config, loader._dataset, sampler, shuffle=True)

    model, number = experiment.model, itertools.count()

    def epoch() -> None:
        model.train()
        if isinstance(model, MultimodalRecommender):
            with run_settings(experiment.config):
                begin_epoch(model, trainer.optimizer, next(number))
        for batch in loader:
            train(batch.to(device))

    def validate() -> None:
        trainer.evaluate(experiment.valid_data, load_best_model=False)

    return epoch, validate


def run_alone(folder: Path, shape: str, name: str) -> None:
    """Train an epoch and validate, in a fresh process."""
    for part in make_epoch(folder, shape, name, cache_dir="none"):
        part()


if __name__ == "__main__":
    main()
