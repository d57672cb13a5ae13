"""Select the best validation epoch: compare scores, count patience, keep and restore the model's state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recbole_siger.common.json_files import check_form
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.protocol import PROTOCOLS
from recbole_siger.runs.checkpoint import KINDS, State, pack, select, unpack
from recbole_siger.runs.folder import RunFolder

__all__ = [
    "MODEL_FILE",
    "ModelState",
    "Plateau",
    "Selection",
    "does_not_fit",
    "doubts",
    "other_parameters",
]

MODEL_FILE = "model.safetensors"

# Far below any difference between two scores, and not a denormal number, which a run flushes to zero.
_TIE = 1e-12
# Number of epochs that are early, and of scores in a mean.
_EARLY = 5
# RecBole's prefix of attributes that cache embeddings.
_CACHE = "restore_"


def other_parameters(model: Any) -> dict[str, Any]:
    """Return RecBole's ``other_parameter()`` without caches of embeddings.

    DIN, SASRecF and others list a layer there; its state is in ``state_dict()`` already.
    """
    return {
        key: value
        for key, value in model.other_parameter().items()
        if not key.startswith(_CACHE) and not isinstance(value, nn.Module)
    }


@dataclass(frozen=True)
class ModelState:
    """The state of a model at the end of one epoch.

    Attributes:
        parameters: ``state_dict()``, on the CPU.
        other: Result of :func:`other_parameters`.
    """

    parameters: State
    other: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> ModelState:
        """Copy the current state of a model."""
        parameters = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        return cls(parameters, other_parameters(model))

    def check(self, model: Any) -> None:
        """Raise a ValueError if this is not a state of the model: other names or other shapes."""
        own, state = model.state_dict(), self.parameters
        odd = [
            key
            for key in {**own, **state}
            if getattr(own.get(key), "shape", 0) != getattr(state.get(key), "shape", 0)
        ]
        odd += self.other.keys() ^ other_parameters(model).keys()
        if odd:
            raise ValueError(f"{odd[0]} is missing, of another shape, or not of the model")

    def load_into(self, model: Any, device: Any) -> None:
        """Set a model to this state and drop its caches of embeddings.

        Raises:
            ValueError: If this is not a state of the model.
        """
        self.check(model)
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
            UserError: If the file holds another model or its JSON is damaged.
            KeyError: If a tensor is missing.
        """
        state, metadata = run.read_tensors(MODEL_FILE)
        file = run.file(MODEL_FILE)
        check_form(metadata, {"model": str, "other": KINDS}, str(file), "train again")
        if metadata["model"] != name:
            raise UserError(f"{file}: contains a {metadata.get('model')}, but config.yaml has {name}")
        return cls(select(state, "model."), unpack(select(state, "other."), metadata["other"]))


class Plateau:
    """The first epochs of BPR training, in which the embeddings are too small to tell items apart.

    A score is a product of two small embeddings, so its gradient is small too. The BPR loss stays near ln 2,
    the loss of equal scores, for a number of steps that depends on the learning rate and on the data, and
    then falls fast. Before this fall, validation ranks by the initial embeddings and by item features, and it
    often becomes worse for many epochs. The plateau is over when the loss of an epoch is 10 % below the
    larger of ln 2 and the first epoch's loss, or after 100 epochs.

    Args:
        is_over: Let it be over from the start.
        equal: The loss of equal scores, ln 2 unless a model weighs its BPR.

    Attributes:
        is_over: Whether the plateau is over. It never begins for a model without a BPR loss.
    """

    _LONGEST = 100
    _FALL = 0.9

    def __init__(self, *, is_over: bool = False, equal: float = math.log(2)) -> None:
        self.is_over, self._equal = is_over, equal
        self._first: float | None = None

    def add(self, epoch: int, loss: float | None) -> None:
        """Take the mean BPR loss of a finished epoch; None for a model without one."""
        if self._first is None and loss is not None:
            self._first = max(loss, self._equal)
        has_fallen = loss is None or self._first is None or loss < self._FALL * self._first
        self.is_over = self.is_over or has_fallen or epoch + 1 >= self._LONGEST


def doubts(scores: Mapping[int, float], best_epoch: int, *, bigger: bool, stopped: bool) -> str | None:
    """Return a sentence on a best epoch that is probably not the best that training can reach, or None.

    Args:
        scores: The validation score of each validated epoch.
        best_epoch: The selected epoch.
        bigger: Whether a larger score is better.
        stopped: Whether early stopping ended training, and not the option ``epochs``.
    """
    option = "--stopping_step" if stopped else "--epochs"
    end = "early stopping ended training" if stopped else "training ended"
    if _rises([value if bigger else -value for value in scores.values()]):
        return f"validation was still rising when {end}; a larger {option} can find a better epoch"
    if stopped and best_epoch < _EARLY:
        return (
            f"the best epoch is {best_epoch}, among the first {_EARLY}; a larger {option} or another "
            "--learning_rate can find a better epoch"
        )
    return None


def _rises(scores: Sequence[float]) -> bool:
    """Return whether the last five scores are on average 1 % of the best above the five before."""
    if len(scores) < 2 * _EARLY:
        return False
    before, last = (sum(part) / _EARLY for part in (scores[-2 * _EARLY : -_EARLY], scores[-_EARLY:]))
    return last - before > abs(max(scores)) / 100


class Selection:
    """The best epoch so far.

    Only a strictly better score is an improvement. RecBole's loop counts a tie as an improvement, so
    :meth:`judge` gives RecBole a score that differs by 1e-12 in that case.

    Attributes:
        epoch: The best epoch, None before the first improvement.
        state: The model's state at the end of that epoch.
        plateau: The epochs at the start whose validations do not count.
    """

    def __init__(self, config: Config, untrained_bpr: float | None = None) -> None:
        self._bigger = bool(config["valid_metric_bigger"])
        self._decimals = PROTOCOLS[config.run.protocol].selection_decimals
        self._min_epochs = config.run.min_epochs
        self.plateau = Plateau(
            is_over=config.run.patience_from == "start", equal=untrained_bpr or math.log(2)
        )
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

        Patience starts at 0 after each epoch before ``min_epochs`` and after each epoch of the plateau, with
        or without an improvement.
        """
        return -1 if epoch < self._min_epochs or not self.plateau.is_over else steps

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
