"""The memory of a run, estimated before training from the built model, its options and its batches.

Parameters, optimizer, graphs and tables are counted exactly. A formula gives the temporary tensors of a step
and of an evaluation: the ``memory_terms`` of our models, and one default for RecBole's models. The default
is close for BPR and LightGCN, and too low for a model that keeps more tensors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_siger.errors import UserError
from recbole_siger.graph.cache import GraphCache

__all__ = [
    "MIB",
    "Estimate",
    "Term",
    "check_fits",
    "check_tables_fit",
    "estimate",
    "has_checked_formula",
    "shortage",
]

_log = logging.getLogger(__name__)

MIB = 1 << 20
_FLOAT = 4
# Number of tensors of a parameter's size in an optimizer.
_OPTIMIZER_STATE = {"adam": 2, "adamw": 2, "sparse_adam": 2, "adagrad": 1, "rmsprop": 1, "sgd": 0}


@dataclass(frozen=True)
class Term:
    """One use of memory.

    Attributes:
        name: What the memory stores.
        n_bytes: Its size.
        option: Option to change if the size is too large.
        when: ``built`` if it exists before training, ``kept`` if it exists from then on, or ``step`` or
            ``evaluation``, which never exist at the same time.
    """

    name: str
    n_bytes: int
    option: str
    when: str


@dataclass(frozen=True)
class Estimate:
    """The terms of one run."""

    terms: tuple[Term, ...]

    def total(self, *when: str) -> int:
        """Sum the terms of some phases, in bytes."""
        return sum(term.n_bytes for term in self.terms if term.when in when)

    def size_of(self, name: str) -> int:
        """Return the bytes of the term with a name."""
        return next(term.n_bytes for term in self.terms if term.name == name)

    @property
    def to_come(self) -> int:
        """Bytes that training adds to the memory of the built model."""
        return self.total("kept") + max(self.total("step"), self.total("evaluation"))

    @property
    def peak(self) -> int:
        """Bytes at the peak of the run, without the interpreter and its libraries."""
        return self.total("built") + self.to_come

    @property
    def largest(self) -> Term:
        """The largest single term."""
        return max(self.terms, key=lambda term: term.n_bytes)


def estimate(experiment: Any) -> Estimate:
    """Count the memory of a built experiment and of its training.

    Args:
        experiment: Result of :func:`recbole_siger.quick_start.build_experiment`.
    """
    config, model = experiment.config, experiment.model
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    narrower = (
        "train_features"
        if getattr(getattr(model, "params", None), "train_features", False)
        else "embedding_size"
    )
    step, evaluation = _activations(experiment)
    terms = [Term("parameters", whole, narrower, "built")]
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for name, value in [*model.named_children(), *vars(model).items()]:
        if n_bytes := _n_bytes(value, seen):
            option = "user_features" if "user_feature" in name else "modalities"
            option = option if "feature" in name else "dataset"
            terms.append(Term(f"graphs and tables: {name}", n_bytes, option, "built"))
    rows = len(experiment.train_data._dataset) if hasattr(experiment.train_data, "_dataset") else 0
    copies = _OPTIMIZER_STATE[config["learner"]]
    terms += [
        Term("interactions and negatives' lookup", rows * 60, "dataset", "built"),
        Term(f"optimizer ({config['learner']})", trained * copies, narrower, "kept"),
        Term("best epoch", whole, narrower, "kept"),
        Term("gradients", trained, narrower, "step"),
        Term("activations of a step", step, "train_batch_size, embedding_size", "step"),
        Term("evaluation", evaluation, "eval_batch_size", "evaluation"),
    ]
    return Estimate(tuple(terms))


def _n_bytes(value: Any, seen: set[int]) -> int:
    """Count the tensors and arrays in a value, each storage once."""
    fresh = {pointer: size for pointer, size in _arrays(value) if pointer not in seen}
    seen.update(fresh)
    return sum(fresh.values())


def _arrays(value: Any) -> Iterator[tuple[int, int]]:
    """Yield address and bytes of each tensor and array in a value."""
    if isinstance(value, Tensor):
        if value.layout == torch.sparse_coo:
            yield from _arrays([value._indices(), value._values()])
        elif value.layout == torch.sparse_csr:
            yield from _arrays([value.crow_indices(), value.col_indices(), value.values()])
        else:
            storage = value.untyped_storage()
            yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, np.ndarray):
        yield value.ctypes.data, value.nbytes
    elif isinstance(value, nn.Module):
        yield from _arrays([*value.parameters(), *value.buffers()])
    elif sp.issparse(value):
        yield from _arrays([array for array in vars(value).values() if isinstance(array, np.ndarray)])
    elif isinstance(value, Mapping):
        yield from _arrays(list(value.values()))
    elif isinstance(
        value, GraphCache
    ):  # keeps what graphs are built from, such as the mean profiles of users
        yield from _arrays([request.tensors for request in value.requests])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _arrays(one)
    elif type(value).__module__.startswith("recbole_siger.model"):
        yield from _arrays(list(vars(value).values()))


def _activations(experiment: Any) -> tuple[int, int]:
    """Return the bytes of a training step and of an evaluation, without the memory that stays."""
    config, model, loader = experiment.config, experiment.model, experiment.train_data
    batch, n_items = getattr(loader, "_batch_size", config["train_batch_size"]), experiment.dataset.item_num
    if hasattr(loader, "_dataset"):  # no batch has more rows than an epoch
        batch = min(batch, len(loader._dataset) * getattr(loader, "times", 1))
    users = min(getattr(experiment.valid_data, "step", 1), experiment.dataset.user_num)
    # Scores, the mask of relevant items, and the results of users for the metrics.
    ranking = users * n_items * (_FLOAT + 1) + experiment.dataset.user_num * max(config["topk"]) * 12
    if hasattr(model, "memory_terms"):
        step, forward = model.memory_terms(batch)
    else:
        step, forward = _recbole_model(model, batch, experiment.dataset.user_num, n_items)
    return step, forward + ranking


def _recbole_model(model: Any, batch: int, n_users: int, n_items: int) -> tuple[int, int]:
    """Estimate: LightGCN's tables for a model with layers, otherwise BPR's rows of the batch."""
    width = _FLOAT * int(getattr(model, "embedding_size", None) or getattr(model, "latent_dim", None) or 64)
    layers = getattr(model, "n_layers", None)
    tables = (layers + 3) * (n_users + n_items) * width if isinstance(layers, int) else 0
    return tables + 4 * batch * width, tables


def available(device: torch.device) -> int | None:
    """Return the free bytes of a device, or None if the system does not report them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    swap = sizes.get("SwapFree", 0)
    free = sizes["MemAvailable"] + swap if "MemAvailable" in sizes else None
    left = _left_in_container(Path("/sys/fs/cgroup"), swap)
    return left if free is None else free if left is None else min(free, left)


def _left_in_container(group: Path, swap: int) -> int | None:
    """Return the free bytes of a container, swap included, or None without a limit.

    Args:
        group: Folder of the container's control group.
        swap: Free swap of the machine, in bytes.
    """

    def read(name: str) -> int:
        return int((group / f"memory.{name}").read_text(encoding="ascii"))

    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        left = read("max") - read("current") + int(stat["file"])  # the system frees cached files
    except (OSError, ValueError, KeyError):
        return None
    try:
        return left + min(swap, read("swap.max") - read("swap.current"))
    except ValueError:  # "max": all of the machine's
        return left + swap
    except OSError:
        return left


def check_fits(experiment: Any) -> None:
    """Compare the estimate with the free memory before a training, by the key ``check_memory``.

    ``refuse`` rejects a training that does not fit if the formula of the model was tested against what torch
    allocates, and warns for any other model. ``warn`` only warns. ``ignore`` skips the check.

    Raises:
        UserError: If the device has less free memory than the estimate of what training adds.
    """
    mode = experiment.config.run.check_memory
    if mode == "ignore" or (problem := shortage(experiment)) is None:
        return
    if mode == "refuse" and has_checked_formula(experiment.model):
        raise UserError(f"{problem}, or train all the same with --check_memory=warn")
    _warn(problem)


def check_tables_fit(config: Any, n_users: int, n_items: int) -> None:
    """Compare the ID embeddings alone with the free memory, before they are made; by ``check_memory``.

    Raises:
        UserError: If tables of ``embedding_size`` for all users and items are larger than the free memory.
    """
    width, mode, device = config["embedding_size"], config.run.check_memory, torch.device(config["device"])
    if mode == "ignore" or not isinstance(width, int) or (free := available(device)) is None:
        return
    needed = 4 * (n_users + n_items) * width
    if needed <= free:
        return
    problem = (
        f"embedding_size={width}: the embeddings of {n_users:,} users and {n_items:,} items need "
        f"{needed / MIB:,.0f} MiB and {device} has {free / MIB:,.0f} MiB; lower embedding_size"
    )
    if mode == "refuse":
        raise UserError(problem)
    _warn(problem)


def _warn(problem: str) -> None:
    _log.warning("%s. The run goes on; --check_memory=ignore skips this check.", problem)


def shortage(experiment: Any) -> str | None:
    """Compare the estimate of what training adds with the free memory of the device.

    Free memory includes swap, except on a GPU.

    Returns:
        What is missing and which option lowers the largest term; None if the training fits or the system does
        not report its memory.
    """
    device = torch.device(experiment.config["device"])
    free, found = available(device), estimate(experiment)
    if free is None or found.to_come <= free:
        return None
    worst = max((t for t in found.terms if t.when != "built"), key=lambda term: term.n_bytes)
    return (
        f"{experiment.config['model']} on {experiment.config['dataset']}: training needs about "
        f"{found.to_come / MIB:.0f} MiB more and {device} has {free / MIB:.0f} MiB"
        f"{'' if device.type == 'cuda' else ', swap included'}; the largest term is "
        f"{worst.name} with {worst.n_bytes / MIB:.0f} MiB: lower {worst.option}"
    )


def has_checked_formula(model: Any) -> bool:
    """Return whether tests compare the estimate of a model with what torch allocates.

    Those are the models with ``memory_terms``, and two of RecBole's.
    """
    return hasattr(model, "memory_terms") or type(model).__name__ in ("BPR", "LightGCN")
