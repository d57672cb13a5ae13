"""Options and models of RecBole that run code from a file, or from the text of an option.

RecBole evaluates the text of some options with ``eval`` and reads some files with pickle, which runs the code
that a file contains. A run folder, a configuration file or a dataset of another person can set these options.
They are refused from every source, the command line included. ``tests/unit/rules/test_unsafe.py`` searches
the installed RecBole for each such call and fails for a call that is not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["REFUSED_MODELS", "UNSAFE", "Unsafe", "check_model_allowed", "check_unsafe"]


@dataclass(frozen=True)
class Unsafe:
    """An option of one model with which RecBole evaluates text or reads a pickle.

    Attributes:
        key: Name of the option.
        safe: All values that are allowed; they are the same as the default in effect.
        reason: What RecBole does with any other value.
    """

    key: str
    safe: tuple[Any, ...]
    reason: str


_READS = "RecBole reads"
_STAGE = f"{_READS} the file of `pre_model_path` with pickle"
UNSAFE: dict[str, tuple[Unsafe, ...]] = {
    "KD_DAGFM": (
        Unsafe("teacher", ("CrossNet", "CIN"), "RecBole runs this text as Python code"),
        Unsafe("phase", ("teacher_training",), f"{_READS} the file of `warm_up` with pickle"),
    ),
    "ConvNCF": (Unsafe("train_method", ("no_pretrain",), _STAGE),),
    "LDiffRec": (Unsafe("n_cate", (1,), f"{_READS} item_emb.npy of the dataset with pickle"),),
    "NAIS": (Unsafe("pretrain_path", (None,), f"{_READS} this file with pickle"),),
    "NeuMF": (Unsafe("use_pretrain", (False,), f"{_READS} the files of the `*_pretrain_path` with pickle"),),
    "RaCT": (Unsafe("train_stage", ("actor_pretrain",), _STAGE),),
    "S3Rec": (Unsafe("train_stage", ("pretrain",), _STAGE),),
}
"""Options by the class name of the model; a class that is derived from one inherits the check."""

_PICKLES = "RecBole stores the pre-trained stage with pickle"
_TREES = "decision-tree models do not rank, and RecBole stores them with pickle"
REFUSED_MODELS = {"RaCT": _PICKLES, "S3Rec": _PICKLES, "lightgbm": _TREES, "xgboost": _TREES}
"""Models of RecBole that are refused, and why."""


def check_model_allowed(model: str, source: str = "configuration") -> None:
    """Refuse a model of RecBole that cannot run without pickle.

    Args:
        model: Name of the model.
        source: Where the name was given, for the error.

    Raises:
        UserError: With the reason.
    """
    if model in REFUSED_MODELS:
        raise UserError(f"{source}: model={model!r}: {REFUSED_MODELS[model]}; choose another model")


def check_unsafe(classes: Iterable[str], values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Refuse values with which RecBole runs code.

    Args:
        classes: Names of the model class and of its base classes.
        values: The configuration.
        origin: Where each value was given, for the error.

    Raises:
        UserError: Naming source, key, value, reason and the allowed values.
    """
    for name in classes:
        for option in UNSAFE.get(name, ()):
            value = values.get(option.key)
            # `1 == True`, and a value of another type could compare equal to a safe one.
            if not any(type(value) is type(one) and value == one for one in option.safe):
                allowed = " or ".join(map(repr, option.safe))
                raise UserError(
                    f"{origin.get(option.key, 'configuration')}: {option.key}={str(value)[:80]!r}: "
                    f"{option.reason}; {name} allows {allowed}"
                )
