"""Small experiments on the toy dataset, and what the checks read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_siger.config import Config
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.registry import get_model_class
from recbole_siger.runs.folder import RunFolder
from recbole_siger.testing.toy import Toy, make_toy
from recbole_siger.training.experiment import Experiment, build_experiment
from recbole_siger.training.settings import run_settings

__all__ = [
    "BATCH",
    "Case",
    "begin_epoch",
    "first_batch",
    "graphs_of",
    "make_experiment",
    "require",
    "score_table",
    "small_values",
    "start_epoch",
    "tensors_of",
    "train_steps",
]

BATCH = 17

Model = str | type[Any]


def require(condition: Any, text: str) -> None:
    """Raise an AssertionError with ``text`` unless the condition holds, also under ``python -O``."""
    if not condition:
        raise AssertionError(text)


@dataclass(frozen=True)
class Case:
    """A model under check.

    Attributes:
        model: Registered name, import path, or class.
        folder: An empty folder for datasets and runs.
        options: Configuration of every experiment.
        checkerboard: More configuration, with which the model learns the checkerboard.
        without_noise: More configuration, which removes the model's own randomness from its loss.
    """

    model: Model
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    checkerboard: Mapping[str, Any] = field(default_factory=dict)
    without_noise: Mapping[str, Any] = field(default_factory=dict)

    def experiment(self, toy: Toy | None = None, *, part: str = "", **options: Any) -> Experiment:
        """Build an experiment on a toy dataset; each ``part`` has a dataset of its own."""
        return make_experiment(self.folder / part, self.model, toy, **{**self.options, **options})


def small_values(folder: Path, model: Model) -> dict[str, Any]:
    """Return the configuration of a small run on the CPU, on the dataset in ``<folder>/dataset``."""
    values: dict[str, Any] = {
        "data_path": str(folder / "dataset"),
        "gpu_id": "",
        "epochs": 2,
        "train_batch_size": BATCH,
        "eval_batch_size": 13,
        "learning_rate": 0.01,
        "topk": [2, 3, 5],
        "valid_metric": "Recall@3",
    }
    params_class = getattr(get_model_class(model) if isinstance(model, str) else model, "params_class", None)
    if params_class and "embedding_size" in {one.name for one in fields(params_class)}:
        values["embedding_size"] = 7
    return values


def make_experiment(folder: Path, model: Model, toy: Toy | None = None, **options: Any) -> Experiment:
    """Build the parts of one small run; the dataset is written at the first call for a folder.

    Args:
        folder: Where ``dataset/toy`` and the run folders are.
        model: Registered name, import path, or class.
        toy: The dataset; by default :func:`~recbole_siger.testing.toy.make_toy`'s.
        options: Configuration, stronger than :func:`small_values`.

    Raises:
        ValueError: If the folder has a dataset already and ``toy`` is given.
    """
    written = folder / "dataset" / "toy"
    if not written.exists():
        (toy or make_toy()).write(written)
    elif toy is not None:
        raise ValueError(f"{written} has another toy dataset already")
    config = Config(model, "toy", config_dict=small_values(folder, model) | options)
    n_runs = sum(1 for _ in folder.glob("runs/*"))
    return build_experiment(config, RunFolder.create(folder / "runs" / str(n_runs)))


def first_batch(experiment: Experiment) -> Any:
    """Return one training batch with its negatives, on the model's device."""
    return next(iter(experiment.train_data)).to(experiment.config["device"])


def start_epoch(experiment: Experiment) -> None:
    """Do what the trainer does before the first batch of an epoch, auxiliary steps included."""
    optimizer = experiment.trainer.optimizer
    begin_epoch(experiment.model, optimizer)


def begin_epoch(model: Any, optimizer: torch.optim.Optimizer | None, epoch: int = 0) -> None:
    """Begin an epoch of a model with its auxiliary steps; without an optimizer gradients add up."""
    model.train()
    model.on_epoch_start(epoch)
    for terms in model.auxiliary_losses(epoch):
        if optimizer is not None:
            optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        if optimizer is not None:
            optimizer.step()
    if optimizer is not None:
        optimizer.zero_grad()


def train_steps(experiment: Experiment, n_steps: int) -> list[dict[str, float]]:
    """Train on the first batches of the first epoch; return the loss terms of each step before its update.

    Raises:
        ValueError: If the epoch has fewer batches.
    """
    model, optimizer = experiment.model, experiment.trainer.optimizer
    start_epoch(experiment)
    steps: list[dict[str, float]] = []
    for batch in experiment.train_data:
        with run_settings(experiment.config):
            optimizer.zero_grad()
            terms = model.calculate_loss(batch.to(experiment.config["device"]))
            torch.stack(terms).sum().backward()
            optimizer.step()
        steps.append(dict(zip(model.loss_names, (term.item() for term in terms), strict=True)))
        if len(steps) == n_steps:
            return steps
    raise ValueError(f"the toy dataset has {len(steps)} batches, not {n_steps}")


def score_table(experiment: Experiment) -> Tensor:
    """Score every item for every user, padding included: ``(n_users, n_items)`` on the CPU.

    Between two calls the mode of the model does not change, so that a cache of the model stays in use.
    """
    model = experiment.model
    users = Interaction({model.USER_ID: torch.arange(model.n_users)}).to(experiment.config["device"])
    if model.training:
        model.eval()
    with torch.no_grad():
        return model.full_sort_predict(users).reshape(model.n_users, model.n_items).cpu()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of a model: parameters, buffers and plain attributes, also within dicts."""
    found: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            entries = value.items() if isinstance(value, dict) else [("", value)]
            if not name.startswith("_"):
                found |= {f"{prefix}.{name}.{key}": x for key, x in entries if isinstance(x, Tensor)}
    return found


def graphs_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Return every sparse matrix of a model, dense; a stored transpose counts as a matrix of its own."""
    graphs = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseMatrix):
            rows, columns = module.shape
            graphs[name] = _csr_to_dense(module.crow, module.col, module.val, columns)
            if not module.symmetric:
                transposed = (module.transposed_crow, module.transposed_col, module.transposed_val)
                graphs[f"{name}.transposed"] = _csr_to_dense(*transposed, rows)
    for name, value in tensors_of(model).items():
        if value.layout != torch.strided:
            graphs[name] = value.detach().to_dense().cpu().numpy()
    return graphs


def _csr_to_dense(crow: Tensor, col: Tensor, val: Tensor, columns: int) -> np.ndarray:
    dense = np.zeros((len(crow) - 1, columns), dtype=np.float32)
    for row in range(len(crow) - 1):
        for place in range(int(crow[row]), int(crow[row + 1])):
            dense[row, int(col[place])] += val[place].item()
    return dense
