"""The checkpoint of a training, from which the training continues exactly."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_siger.runs.checkpoint import (
    State,
    pack,
    pack_optimizer,
    pack_random,
    select,
    unpack,
    unpack_optimizer,
    unpack_random,
)
from recbole_siger.runs.folder import CHECKPOINT, RunFolder
from recbole_siger.training.selection import ModelState, does_not_fit

__all__ = ["Checkpoints", "Parts", "optimizers_of"]


@dataclass(frozen=True)
class Parts:
    """The state that changes during a training, except its counters and its best epoch.

    Attributes:
        model: The model.
        optimizers: ``{name: optimizer}``.
        generators: ``{name: random generator}``, besides the global ones.
        device: The device of the model.
    """

    model: Any
    optimizers: Mapping[str, torch.optim.Optimizer]
    generators: Mapping[str, torch.Generator]
    device: torch.device


class Checkpoints:
    """Write and read ``checkpoint.safetensors`` of one training.

    Args:
        name: The model's name.
        model: The model as it was built. Attributes that training assigns later are part of a checkpoint.
        interval: Seconds between two checkpoints, >= 0.
    """

    def __init__(self, name: str, model: Any, interval: float) -> None:
        self._name, self._interval = name, interval
        self._built_with = dict(vars(model))
        self._written_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() - self._written_at >= self._interval

    def write(
        self, run: RunFolder, parts: Parts, best: ModelState | None, counters: Mapping[str, Any]
    ) -> None:
        """Write everything that an exact continuation requires.

        Args:
            run: The run folder.
            parts: State to store.
            best: The state of the best epoch.
            counters: Numbers of the training, as JSON can hold them.
        """
        self._written_at = time.monotonic()
        captured = {
            "model": (parts.model.state_dict(), {}),
            "plain": pack(self._reassigned(parts.model)),
            "best": (best.parameters if best else {}, {}),
            "other": pack(best.other if best else {}),
            "random": pack_random(parts.generators, parts.device),
        }
        captured |= {name: pack_optimizer(optimizer) for name, optimizer in parts.optimizers.items()}
        state = {f"{part}.{key}": value for part, (s, _) in captured.items() for key, value in s.items()}
        kinds = {part: kinds for part, (_, kinds) in captured.items()}
        run.write_tensors(CHECKPOINT, state, model_name=self._name, counters=dict(counters), **kinds)

    def read(self, run: RunFolder, parts: Parts) -> tuple[ModelState | None, dict[str, Any]]:
        """Load the last checkpoint into ``parts``; return the best epoch's state and the counters.

        Raises:
            UserError: If the checkpoint is missing, damaged, or of another model.
        """
        state, metadata = run.read_tensors(CHECKPOINT)
        try:
            if metadata["model_name"] != self._name:
                raise ValueError(f"it belongs to {metadata['model_name']}, but config.yaml has {self._name}")
            return _load(state, metadata, parts), dict(metadata["counters"])
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise does_not_fit(run.file(CHECKPOINT), error) from None

    def _reassigned(self, model: Any) -> dict[str, Any]:
        """Return state outside the state dict, such as NCL's clusters or an annealing step."""
        return {
            name: value
            for name, value in vars(model).items()
            if value is not self._built_with.get(name)
            and isinstance(value, int | float | np.ndarray | Tensor)
            and getattr(value, "layout", torch.strided) == torch.strided  # SGL draws its graphs each epoch
            and not name.startswith(("_", "restore_"))
            and name != "training"
        }


def _load(state: State, metadata: Mapping[str, Any], parts: Parts) -> ModelState | None:
    parts.model.load_state_dict(select(state, "model."))
    for name, value in unpack(select(state, "plain."), metadata["plain"]).items():
        setattr(parts.model, name, value.to(parts.device) if isinstance(value, Tensor) else value)
    for name, optimizer in parts.optimizers.items():
        if name in metadata:
            unpack_optimizer(optimizer, select(state, f"{name}."), metadata[name])
    unpack_random(parts.generators, parts.device, select(state, "random."), metadata["random"])
    best = select(state, "best.")
    return ModelState(best, unpack(select(state, "other."), metadata["other"])) if best else None


def optimizers_of(trainer: Any) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers that are attributes of one of RecBole's trainers, each once."""
    found = {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}
    if any(value is trainer.optimizer for name, value in found.items() if name != "optimizer"):
        del found["optimizer"]  # RecVAE's `optimizer` is the optimizer of the part in training
    return found
