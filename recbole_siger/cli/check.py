"""A wrong model name or a misspelt key is reported before torch and RecBole are imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.defaults import check_keys, default_values, known_keys
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import MODELS, check_model_name, recbole_root

__all__ = ["check_models", "check_run"]


def check_run(
    model: str | None, dataset: str | None, files: Sequence[str] = (), keys: Mapping[str, Any] | None = None
) -> None:
    """Check what can be checked of a run from YAML files alone; ``Config`` checks all of it again.

    Args:
        model: Model name; by default the key ``model`` of the files.
        dataset: Dataset name; by default the key ``dataset`` of the files.
        files: Configuration files.
        keys: Keys of the configuration as typed.

    Raises:
        UserError: For an unknown model or key.
    """
    given = [(file, read_yaml(Path(file))) for file in files]
    merged = {key: value for _, values in given for key, value in values.items()}
    model, dataset = model or merged.get("model"), dataset or merged.get("dataset")
    if not isinstance(model, str) or not isinstance(dataset, str) or ":" in model:
        return  # Config reports a missing name; a model `package.module:Class` has keys of its own
    check_model_name(model)
    if model not in MODELS and not (recbole_root() / "properties" / "model" / f"{model}.yaml").is_file():
        return  # a model of another package, whose keys only its own files name
    known = known_keys(default_values(model, dataset))
    for source, values in [*given, ("command line", keys or {})]:
        check_keys(source, values, known, model)


def check_models(models: str, dataset: str | None, files: Sequence[str], keys: Mapping[str, Any]) -> None:
    """Check each of several models as :func:`check_run` does.

    Args:
        models: Names, separated by commas.
        dataset: Dataset name.
        files: Configuration files of every run.
        keys: Keys of the configuration of every run.

    Raises:
        UserError: For an unknown model or key.
    """
    for name in models.split(","):
        if name.strip():
            check_run(name.strip(), dataset, files, keys)
