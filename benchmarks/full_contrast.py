"""Does ``contrast_negatives: full`` train at the size of Amazon Clothing, and within what memory?

    python -m benchmarks.full_contrast --data_path=dataset

A separate process trains a few steps. Without blocks, one such loss over all users would store a matrix of
batch x 39,387 numbers, several times for its gradients, and a loss over all rows a matrix of 39,387 squared.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import fresh_process_peak, print_table, write_records
from benchmarks.shapes import shape_parser, write_dataset
from benchmarks.step import build
from recbole_siger.training.settings import run_settings


def main() -> None:
    """Measure and print."""
    parser = shape_parser(__doc__, ["baby", "clothing"])
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    for shape in ["baby"] if options.quick else options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder), shape, options.data_path)
            for negatives in ("batch", "full"):
                (seconds, loss), peak = fresh_process_peak(take_steps, Path(folder), shape, negatives)
                records.append(
                    {
                        "benchmark": "full_contrast",
                        "shape": shape,
                        "contrast_negatives": negatives,
                        "seconds": seconds,
                        "loss": loss,
                        "peak_mib": peak,
                    }
                )
    print_table(
        "SIGER by contrast_negatives",
        ("shape", "negatives", "s a step", "loss", "peak MiB"),
        [(r["shape"], r["contrast_negatives"], r["seconds"], r["loss"], r["peak_mib"]) for r in records],
    )
    write_records(options.out, records)


def take_steps(folder: Path, shape: str, negatives: str, n_steps: int = 3) -> tuple[float, float]:
    """Train a few batches; return seconds for each step and the last loss."""
    experiment = build(folder, shape, "SIGER", contrast_negatives=negatives)
    model, optimizer, device = experiment.model, experiment.trainer.optimizer, experiment.config["device"]
    start = time.perf_counter()
    for batch in itertools.islice(experiment.train_data, n_steps):
        with run_settings(experiment.config):
            optimizer.zero_grad()
            loss = sum(model.calculate_loss(batch.to(device)))
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - start) / n_steps, float(loss.detach())


if __name__ == "__main__":
    main()
