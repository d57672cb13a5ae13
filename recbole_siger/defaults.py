"""Every key of a model and a dataset, read from files: RecBole and torch are not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_siger import compat
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import recbole_root

__all__ = ["check_keys", "default_values", "known_keys", "yaml_files"]

# Keys that RecBole reads without giving them a default in any YAML.
_KEYS_WITHOUT_DEFAULT = ("encoding", "model", "dataset", "benchmark_filename", "numerical_features", "nproc")

# `config_file` is on RecBole's list of arguments, and nothing reads it; the option is `config_files`.
_NO_KEYS = {"MODEL_TYPE", "config_file"}


def known_keys(defaults: Iterable[str]) -> set[str]:
    """Return every key that a configuration understands.

    Args:
        defaults: Keys that have a default value.
    """
    listed = compat.argument_names(recbole_root())
    return {*defaults, *listed, *_KEYS_WITHOUT_DEFAULT} - _NO_KEYS


def check_keys(source: str, keys: Iterable[str], known: set[str], model: str) -> None:
    """Reject an unknown key.

    Args:
        source: Source of the keys, for the error.
        keys: The given keys.
        known: Result of :func:`known_keys`.
        model: The model of the keys, for the error.

    Raises:
        UserError: With the first unknown key and the closest known key.
    """
    for key in keys:
        if key not in known:
            hint = did_you_mean(key, known) or f"; `recbole-siger config {model}` lists the options"
            raise UserError(f"{source}: unknown key `{key}`{hint}")


def yaml_files(model: str, dataset: str) -> list[Path]:
    """Return the YAML files that hold default values, weakest first; RecBole's file comes before ours."""
    relative = ["overall.yaml", f"model/{model}.yaml", "dataset/sample.yaml", f"dataset/{dataset}.yaml"]
    root = recbole_root() / "properties"
    found = [path for name in relative for path in (root / name, find_resource(f"properties/{name}"))]
    # The type of the model decides which of these RecBole reads; their keys are known for every model.
    found += sorted((root / "quick_start_config").glob("*.yaml"))
    return [path for path in found if path is not None and path.is_file()]


def default_values(model: str, dataset: str) -> Mapping[str, Any]:
    """Return the default values that the YAML files hold for a model and a dataset."""
    values: dict[str, Any] = {}
    for path in yaml_files(model, dataset):
        values |= read_yaml(path)
    return values
