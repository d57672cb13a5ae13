"""Select the best validation epoch: compare scores, count patience, keep and restore the model's state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.protocol import PROTOCOLS
from recbole_siger.runs.checkpoint import State, pack, select, unpack
from recbole_siger.runs.folder import RunFolder

__all__ = ["MODEL_FILE", "ModelState", "Selection", "does_not_fit"]

MODEL_FILE = "model.safetensors"

# Far below any difference between two scores, and not a denormal number, which a run flushes to zero.
_TIE = 1e-12
# RecBole's prefix of attributes that cache embeddings.
_CACHE = "restore_"


@dataclass(frozen=True)
class ModelState:
    """The state of a model at the end of one epoch.

    Attributes:
        parameters: ``state_dict()``, on the CPU.
        other: Result of RecBole's ``other_parameter()``, without caches of embeddings.
    """

    parameters: State
    other: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> ModelState:
        """Copy the current state of a model."""
        parameters = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        other = {key: value for key, value in model.other_parameter().items() if not key.startswith(_CACHE)}
        return cls(parameters, other)

    def load_into(self, model: Any, device: Any) -> None:
        """Set a model to this state and drop its caches of embeddings."""
        model.load_state_dict(self.parameters)
        model.load_other_parameter(
            {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in self.other.items()
            }
        )
        for key in model.other_parameter():
            if key.startswith(_CACHE):
                setattr(model, key, None)

    def write(self, run: RunFolder, name: str) -> None:
        """Write the state of a model called ``name`` to ``model.safetensors``."""
        tensors, kinds = pack(self.other)
        named = {f"model.{key}": value for key, value in self.parameters.items()}
        named |= {f"other.{key}": value for key, value in tensors.items()}
        run.write_tensors(MODEL_FILE, named, model=name, other=kinds)

    @classmethod
    def read(cls, run: RunFolder, name: str) -> ModelState:
        """Read ``model.safetensors``.

        Raises:
            UserError: If the file holds another model.
            KeyError: If a tensor is missing.
        """
        state, metadata = run.read_tensors(MODEL_FILE)
        if metadata.get("model") != name:
            file = run.file(MODEL_FILE)
            raise UserError(f"{file}: contains a {metadata.get('model')}, but config.yaml has {name}")
        return cls(select(state, "model."), unpack(select(state, "other."), metadata["other"]))


class Selection:
    """The best epoch so far.

    Only a strictly better score is an improvement. RecBole's loop counts a tie as an improvement, so
    :meth:`judge` gives RecBole a score that differs by 1e-12 in that case.

    Attributes:
        epoch: The best epoch, None before the first improvement.
        state: The model's state at the end of that epoch.
    """

    def __init__(self, config: Config) -> None:
        self._bigger = bool(config["valid_metric_bigger"])
        self._decimals = PROTOCOLS[config.run.protocol].selection_decimals
        self._min_epochs = config.run.min_epochs
        self.epoch: int | None = None
        self.state: ModelState | None = None

    def judge(self, score: float, best: float, epoch: int) -> float:
        """Compare an epoch's validation score with the best score so far.

        Args:
            score: The validation score of the epoch.
            best: The best score of earlier epochs, infinitely bad before the first.
            epoch: Number of the epoch.

        Returns:
            The score for RecBole's early stopping, rounded as the protocol requires, and 1e-12 worse if it
            equals ``best``.
        """
        score = float(score if self._decimals is None else round(score, self._decimals))
        if score > best if self._bigger else score < best:
            self.epoch = epoch
        elif score == best:
            score += -_TIE if self._bigger else _TIE
        return score

    def steps_before(self, epoch: int, steps: int) -> int:
        """Return RecBole's count of validations without an improvement, before ``epoch`` is counted.

        Patience starts at 0 after each epoch before ``min_epochs``, with or without an improvement.
        """
        return -1 if epoch < self._min_epochs else steps

    def restore(self, model: Any, device: Any) -> None:
        """Set the model to the best epoch.

        Raises:
            UserError: If there is no best epoch.
        """
        if self.state is None:
            raise UserError("no epoch produced a valid validation score; see metrics.jsonl")
        self.state.load_into(model, device)


def does_not_fit(file: Path, error: Exception) -> UserError:
    """Return the error for a file whose tensors are not those of the model."""
    return UserError(f"{file}: does not fit the model: {' '.join(str(error).split())}; train again")
