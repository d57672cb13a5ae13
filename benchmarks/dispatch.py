"""How many kernels would a training step launch on a GPU, and does the host wait in it?

    python -m benchmarks.dispatch
    python -m benchmarks.dispatch --models SIGER MGCN --operations

The step runs on the CPU, once with the choices of a CPU and once with those of CUDA
(``recbole_siger/model/device.py``), and the operations that PyTorch dispatches are counted. Interactions are
drawn with the sizes of a real dataset. Features are narrow, because their width changes no count. Nothing is
measured, so a GPU is not needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.measure import print_table, write_records
from benchmarks.shapes import SHAPES, Shape, shape_parser
from recbole_siger.model.device import CPU, CUDA, Choices, force_choices
from recbole_siger.registry import MODELS, get_model_class
from recbole_siger.testing.dispatch import StepCount, count_step, training_step

BATCH_SIZE = 2048
WIDTHS = {"image": 24, "text": 16}
# The number of candidates changes the time to build the graphs of SCALE, and no count.
OPTIONS: dict[str, dict[str, Any]] = {"SCALE": {"n_candidates": 16}}


def main() -> None:
    """Count and print."""
    parser = shape_parser(__doc__, ["baby"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--operations", action="store_true", help="also how often each operation runs")
    options = parser.parse_args()
    names = ["SIGER"] if options.quick else options.models
    for shape in options.shapes:
        records = [record for name in names for record in count_model(name, SHAPES[shape])]
        header = ("model", "choices", "kernels", "operations", "waits for", "order of threads in")
        columns = ("model", "choices", "kernels", "operations", "waiting", "varying")
        print_table(f"A training step, {shape}", header, [tuple(r[c] for c in columns) for r in records])
        if options.operations:
            for record in records:
                print(f"{record['model']}, {record['choices']}: {record['each']}\n")
        write_records(options.out, [{"benchmark": "dispatch", "shape": shape, **r} for r in records])


def count_model(name: str, shape: Shape) -> list[dict[str, Any]]:
    """Count a step of a model with the choices of each device; a step before builds what is built once."""
    model, batch = build(name, shape)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    model.train()
    model.on_epoch_start(0)
    records = []
    for device, choices in (("CPU", CPU), ("CUDA", CUDA)):
        count = count_of(model, batch, optimizer, choices)
        record = {"model": name, "choices": device, "kernels": count.launches}
        record |= {"operations": sum(count.operations.values()), "each": count.table()}
        record |= {"waiting": words(count.waiting), "varying": words(count.varying)}
        records.append(record)
        print(f"{name}, {device}: {count.launches} kernels", flush=True)
    return records


def count_of(model: Any, batch: Any, optimizer: torch.optim.Optimizer, choices: Choices) -> StepCount:
    """Train a step, then count one."""
    with force_choices(choices):
        training_step(model, batch, optimizer)
    return count_step(lambda: training_step(model, batch, optimizer), choices)


def words(counter: Any) -> str:
    """Return names and numbers above 0 as text."""
    return ", ".join(f"{name} {n}" for name, n in counter.most_common() if n) or "nothing"


def build(name: str, shape: Shape) -> tuple[Any, dict[str, torch.Tensor]]:
    """Build a model with its defaults on drawn interactions, and a batch."""
    rng, model_class = np.random.default_rng(0), get_model_class(name)
    popularity = rng.permutation(1 / np.arange(1, shape.n_items + 1) ** 0.7)
    users = np.resize(np.arange(shape.n_users), shape.n_train)
    items = rng.choice(shape.n_items, shape.n_train, p=popularity / popularity.sum())
    pairs = 1 + np.unique(np.stack([users, items]), axis=1)  # 0 is the padding id
    n_items, drawn = shape.n_items + 1, rng.choice(pairs.shape[1], BATCH_SIZE, replace=False)
    features = {m: rng.standard_normal((n_items, width), dtype=np.float32) for m, width in WIDTHS.items()}
    for table in features.values():
        table[0] = 0
    model = model_class.from_tensors(
        model_class.params_class.defaults(**OPTIONS.get(name, {})),
        n_users=shape.n_users + 1,
        n_items=n_items,
        train_edges=torch.from_numpy(pairs),
        features={m: torch.from_numpy(x) for m, x in features.items()},
    )
    user, item = torch.from_numpy(pairs[:, drawn])
    negative = torch.from_numpy(rng.integers(1, n_items, BATCH_SIZE))
    return model, {"user_id": user, "item_id": item, "neg_item_id": negative}


if __name__ == "__main__":
    main()
