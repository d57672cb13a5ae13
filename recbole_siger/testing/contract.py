"""What every multimodal model promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.options.params import did_you_mean
from recbole_siger.registry import check_model_class, get_model_class
from recbole_siger.testing import data, scores
from recbole_siger.testing.experiments import Case

__all__ = ["CHECKS", "check_model"]

CHECKS: dict[str, Callable[[Case], None]] = {
    name: getattr(module, name) for module in (scores, data) for name in module.__all__
}
"""The checks by name; the docstring of each says what it holds."""


def check_model(
    model: str | type[Any],
    *,
    options: Mapping[str, Any] | None = None,
    checkerboard: Mapping[str, Any] | None = None,
    without_noise: Mapping[str, Any] | None = None,
    checks: Sequence[str] | None = None,
) -> None:
    """Check that a model keeps the contract, on generated data in a temporary folder.

    Args:
        model: A subclass of ``MultimodalRecommender``, its import path, or a registered name.
        options: Configuration of every experiment, for example small sizes. The data have 30 users and 22
            items. ``embedding_size`` is 7, if the model has this option.
        checkerboard: More configuration, for a model that needs other values to learn the checkerboard.
        without_noise: More configuration, which removes the model's own randomness. The generators of CPU and
            GPU draw different numbers.
        checks: Names from :data:`CHECKS`; by default all. Without a CUDA device, ``cpu_and_gpu_agree`` is
            skipped by default.

    Raises:
        AssertionError: At the first check that fails, with its name.
        UserError: If there is no such model or check, or the model is not multimodal.
    """
    model_class = (
        get_model_class(model) if isinstance(model, str) else check_model_class(model, f"model {model!r}")
    )
    if not issubclass(model_class, MultimodalRecommender):
        raise UserError(f"{model_class.__name__} is no MultimodalRecommender; the contract is for those")
    chosen = list(checks or CHECKS)
    if checks is None and not torch.cuda.is_available():
        chosen.remove("cpu_and_gpu_agree")
    for name in chosen:
        if name not in CHECKS:
            raise UserError(f"check_model: unknown check {name!r}{did_you_mean(name, CHECKS)}")
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="recbole-siger-") as folder:
            given = {"cache_dir": "none", **(options or {})}
            case = Case(model, Path(folder), given, checkerboard or {}, without_noise or {})
            try:
                CHECKS[name](case)
            except AssertionError as error:
                raise AssertionError(f"{model_class.__name__}: {name}: {error}") from error
            except Exception as error:
                error.add_note(f"check_model: {model_class.__name__}: {name}")
                raise
