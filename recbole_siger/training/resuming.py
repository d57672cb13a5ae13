"""The checkpoint of a training, from which the training continues exactly."""

from __future__ import annotations

import inspect
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_siger.common.json_files import Form, check_form, is_finite
from recbole_siger.errors import UserError
from recbole_siger.runs.checkpoint import (
    KINDS,
    OPTIMIZER,
    RANDOM,
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

__all__ = ["Checkpoints", "Parts", "generators_of", "optimizers_of", "read_checkpoint"]

_FORM: Form = {
    "model_name": str,
    "counters": {
        "epoch": int,
        "cur_step": int,
        "best_epoch": (int, None),
        "best_valid_score": object,  # a number; infinite before the first validation
        "best_valid_result": ({"*": float}, None),
        "seconds": [float],
    },
    "plain": KINDS,
    "other": KINDS,
    "random": RANDOM,
}
_FIX = "train again"


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
        model: The model as it was built. A checkpoint has the attributes that training assigns or changes.
        interval: Seconds between two checkpoints, >= 0.
    """

    def __init__(self, name: str, model: Any, interval: float) -> None:
        self._name, self._interval = name, interval
        self._built_with = {key: (value, _content(value)) for key, value in vars(model).items()}
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
            "plain": pack(self._changed(parts.model)),
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
        state, metadata = read_checkpoint(run)
        form: Form = {f"{name}?": OPTIMIZER for name in parts.optimizers}
        check_form(metadata, form, str(run.file(CHECKPOINT)), _FIX)
        try:
            if metadata["model_name"] != self._name:
                raise ValueError(f"it belongs to {metadata['model_name']}, but config.yaml has {self._name}")
            return _load(state, metadata, parts), metadata["counters"]
        except (RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise does_not_fit(run.file(CHECKPOINT), error) from None

    def _changed(self, model: Any) -> dict[str, Any]:
        """Return state outside the state dict, such as NCL's clusters or the losses that DiffRec keeps."""
        found = {}
        for name, value in vars(model).items():
            built, content = self._built_with.get(name, (None, None))
            if _is_state(name, value) and (value is not built or _content(value) != content):
                found[name] = value
        return found


def read_checkpoint(run: RunFolder) -> tuple[State, dict[str, Any]]:
    """Return the tensors and the JSON of ``checkpoint.safetensors``; the JSON has the form of a checkpoint.

    Raises:
        UserError: If the file is missing or damaged.
    """
    state, metadata = run.read_tensors(CHECKPOINT)
    file = run.file(CHECKPOINT)
    check_form(metadata, _FORM, str(file), _FIX)
    found = metadata["counters"]
    best, score, n_epochs = found["best_epoch"], found["best_valid_score"], found["epoch"] + 1
    is_possible = n_epochs > 0 and found["cur_step"] >= 0 and (best is None or 0 <= best < n_epochs)
    is_score = is_finite(score) or score in (math.inf, -math.inf)
    if not is_possible or not is_score or len(found["seconds"]) != n_epochs:
        raise UserError(f"{file}: damaged: no training has the counters of the file; {_FIX}")
    return state, metadata


def _is_state(name: str, value: Any) -> bool:
    """Return whether an attribute of a model can be state outside the state dict."""
    return (
        isinstance(value, int | float | np.ndarray | Tensor)
        and getattr(value, "layout", torch.strided) == torch.strided  # SGL draws its graphs each epoch
        and not name.startswith(("_", "restore_"))
        and name != "training"
    )


def _content(value: Any) -> int | None:
    """Return a number that is another one after a tensor or an array was changed in place."""
    if isinstance(value, Tensor):
        return value._version
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return None


def _check_attribute(model: Any, name: str, value: Any) -> None:
    """Refuse an attribute that the model would not have written, such as a method.

    Raises:
        ValueError: If the model has something else under this name, or no method that uses the name.
    """
    own = getattr(model, name, None)
    if _is_state(name, value) and (_is_state(name, own) or (own is None and _names(model, name))):
        return
    raise ValueError(f"training does not change the attribute {name!r} of the model")


def _names(model: Any, name: str) -> bool:
    """Return whether a model has an attribute, or a method that mentions it: training may add attributes."""
    functions = (f for cls in type(model).__mro__ for f in vars(cls).values() if inspect.isfunction(f))
    return name in vars(model) or any(name in inspect.unwrap(f).__code__.co_names for f in functions)


def _load(state: State, metadata: Mapping[str, Any], parts: Parts) -> ModelState | None:
    parts.model.load_state_dict(select(state, "model."))
    for name, value in unpack(select(state, "plain."), metadata["plain"]).items():
        _check_attribute(parts.model, name, value)
        setattr(parts.model, name, value.to(parts.device) if isinstance(value, Tensor) else value)
    for name, optimizer in parts.optimizers.items():
        if name in metadata:
            unpack_optimizer(optimizer, select(state, f"{name}."), metadata[name])
    unpack_random(parts.generators, parts.device, select(state, "random."), metadata["random"])
    best = ModelState(select(state, "best."), unpack(select(state, "other."), metadata["other"]))
    if metadata["counters"]["best_epoch"] is None:
        return None
    best.check(parts.model)
    return best


def generators_of(model: Any, loader: Any) -> dict[str, torch.Generator]:
    """Return the random generators of a model and of its training loader, each once.

    RecBole's loader of a knowledge-aware model has no generator: it has a loader of rows and one of triples.
    """
    owners = {"model": model, "loader": loader}
    owners |= {name: getattr(loader, name, None) for name in ("general_dataloader", "kg_dataloader")}
    found = {name: getattr(owner, "generator", None) for name, owner in owners.items()}
    return {name: generator for name, generator in found.items() if generator is not None}


def optimizers_of(trainer: Any) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers that are attributes of one of RecBole's trainers, each once."""
    found = {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}
    if any(value is trainer.optimizer for name, value in found.items() if name != "optimizer"):
        del found["optimizer"]  # RecVAE's `optimizer` is the optimizer of the part in training
    return found
