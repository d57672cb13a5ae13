"""Which part of a trained SIGER ranks, and what do its gates do?

    python -m benchmarks.parts RUN_FOLDER [DATA_PATH]

The run is rebuilt with its best epoch. Each part ranks all items by inner product, with the run's evaluator.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import print_table
from recbole_siger.model.general_recommender.siger import SIGER
from recbole_siger.model.layers import UserItem
from recbole_siger.training.experiment import Experiment, load_experiment


def parts(model: SIGER) -> Iterator[tuple[str, UserItem]]:
    """Yield a name and the tables ``(U, d)`` and ``(I, d)`` of each way to rank."""
    behavior, (semantics, _) = model.encode_behavior(), model.encode_semantics()
    fused = model.fuse(semantics)
    yield "all of SIGER", model.merge(behavior, fused)
    yield "behaviour of users and items", behavior
    yield "fused semantics of users and items", fused
    yield "users: behaviour; items: both", UserItem(behavior.user, model.merge(behavior, fused).item)
    yield "users: behaviour; items: fused semantics", UserItem(behavior.user, fused.item)
    yield "users: fused semantics; items: behaviour", UserItem(fused.user, behavior.item)
    for modality, tables in semantics.items():
        yield f"semantics of {modality}", tables


def gates(model: SIGER) -> Iterator[tuple[str, float, float]]:
    """Yield for each modality the mean of its gate and the deviation between items, without padding."""
    for modality in model.modalities:
        gate = model.gates[modality](getattr(model.features, modality)).detach()[1:]
        yield modality, float(gate.mean()), float(gate.std(dim=0).mean())


def mean_length(table: Tensor) -> float:
    """Return the mean length of the rows, without padding."""
    return float(table[1:].norm(dim=1).mean())


def evaluate(experiment: Experiment, tables: UserItem) -> tuple[float, float]:
    """Return the validation metric of these tables, on validation and on test."""
    trainer, (_, valid, test) = experiment.trainer, experiment.loaders()
    experiment.model.forward = lambda: tables
    found = [trainer.evaluate(x, load_best_model=False)[trainer.valid_metric] for x in (valid, test)]
    return found[0], found[1]


@torch.no_grad()
def main(arguments: list[str]) -> None:
    """Print a table of the parts, and a table of the gates."""
    experiment = load_experiment(*arguments[:2])
    model: Any = experiment.model
    if not isinstance(model, SIGER):
        sys.exit(f"{arguments[0]}: a run of {type(model).__name__}; give the folder of a run of SIGER")
    model.eval()
    rows = [
        (
            name,
            *(f"{value:.4f}" for value in evaluate(experiment, tables)),
            mean_length(tables.user),
            mean_length(tables.item),
        )
        for name, tables in parts(model)
    ]
    key = experiment.trainer.valid_metric
    print_table("Parts", ("part", f"validation {key}", "test", "length, users", "length, items"), rows)
    print_table(
        "Gates",
        ("modality", "mean", "deviation between items"),
        [(name, *(f"{value:.4f}" for value in found)) for name, *found in gates(model)],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
