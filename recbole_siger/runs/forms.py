"""Readers of the text files of a run folder. A folder may come from anyone, so every value is checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_siger.common.json_files import Form, read_bounded
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import MAX_BYTES, load_yaml

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DIGESTS", "EPOCH", "RESULTS", "read_config_file", "read_users_file"]

DIGESTS: Form = {"*": str}
"""Form of ``digests.json`` and ``data_files.json``."""

_SCORES: Form = {"*": float}

EPOCH: Form = {
    "epoch": int,
    "loss": _SCORES,
    "valid": (_SCORES, None),
    "best_epoch": (int, None),
    "seconds_train": float,
    "seconds_valid": float,
    "peak_memory_mib": float,
}
"""Form of a line of ``metrics.jsonl``."""

RESULTS: Form = {
    "model": str,
    "dataset": str,
    "protocol": str,
    "protocol_id?": str,  # absent in runs of older versions, as the next two
    "protocol_facts?": dict,
    "candidates?": str,
    "seed": int,
    "best_epoch": (int, None),
    "valid": _SCORES,
    "test": {"+": float},
    "chance?": _SCORES,  # of cold-start runs
    "n_epochs": int,
    "seconds_per_epoch": float,
    "peak_memory_mib": float,
    "n_parameters": int,
    "versions": {"*": str},
}
"""Form of ``results.json``."""


def read_config_file(file: Path) -> dict[str, Any]:
    """Read a ``config.yaml``: a mapping that names a model and a dataset in text.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        values = load_yaml(read_bounded(file, "train again", max_bytes=MAX_BYTES))
    except FileNotFoundError:
        raise UserError(f"{file}: missing; the run folder is damaged, train again") from None
    except ValueError as error:
        raise UserError(f"{file}: damaged: {_first_line(error)}; train again") from None
    if not isinstance(values, dict) or not {"model", "dataset"} <= set(values):
        raise UserError(f"{file}: not written by recbole-siger (it has no model or dataset)")
    for key in ("model", "dataset"):
        if not isinstance(values[key], str) or not values[key]:
            raise UserError(f"{file}: damaged: {key}={values[key]!r}, expected a name; train again")
    if odd := [key for key in values if not isinstance(key, str)]:
        raise UserError(f"{file}: damaged: the key {odd[0]!r} is not text; train again")
    return values


def read_users_file(file: Path) -> pd.DataFrame:
    """Read a ``users.csv``: ``user_id`` as text, ``n_train``, and one column for each metric and cut-off.

    Raises:
        UserError: If the file is missing or damaged, or has a number that is not finite.
    """
    import pandas as pd

    if not file.is_file():
        raise UserError(f"{file}: missing; the run is unfinished, ranks nothing, or is older than this file")
    try:
        frame = pd.read_csv(
            file, dtype={"user_id": str}, keep_default_na=False, na_values=[], float_precision="round_trip"
        )
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: damaged: {_first_line(error)}; train again") from None
    numbers = frame.columns.drop("user_id", errors="ignore")
    if list(frame.columns[:2]) != ["user_id", "n_train"] or not all(
        pd.api.types.is_numeric_dtype(frame[name]) for name in numbers
    ):
        raise UserError(f"{file}: damaged: not a table of users and their metrics; train again")
    if odd := [name for name in numbers if not np.isfinite(frame[name]).all()]:
        raise UserError(f"{file}: damaged: {odd[0]} has a number that is not finite; train again")
    return frame


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
