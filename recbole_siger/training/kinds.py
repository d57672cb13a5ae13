"""What RecBole's models need: files and fields of its other kinds of models, and options that fit.

RecBole fails with an exception of any type where options do not fit a model. Here such a failure becomes one
line that names model, dataset and the options that were set. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from recbole.utils import ModelType

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import shown
from recbole_siger.registry import is_of_recbole
from recbole_siger.runs.checkpoint import pack
from recbole_siger.training.selection import other_parameters

__all__ = ["build_model", "check_kind", "check_labels", "check_tracking", "missing_package"]

T = TypeVar("T")

_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),  # torch's errors of memory are RuntimeErrors
)


def check_tracking(config: Config) -> None:
    """Check that wandb is installed if the run reports to it.

    Raises:
        UserError: With the command that installs wandb.
    """
    if config["log_wandb"] and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"{config.origin['log_wandb']}: log_wandb=True needs the package wandb: pip install wandb"
        )


def check_labels(config: Config, dataset: Any) -> None:
    """Check that rows have labels if the evaluation reads them.

    Raises:
        UserError: If ``eval_args.mode`` is ``labeled`` and neither a threshold nor a column gives a label.
    """
    modes = config["eval_args"]["mode"].values()
    if "labeled" in modes and config["LABEL_FIELD"] not in dataset.inter_feat.columns:
        source, rating = config.origin["eval_args"], config["RATING_FIELD"]
        raise UserError(
            f"{source}: eval_args: {config['model']} is evaluated with mode=labeled, and no row has a label; "
            f"write --load_col='{{inter: [user_id, item_id, {rating}]}}' --threshold='{{{rating}: 3}}'"
        )


def check_kind(config: Config) -> None:
    """Check that a sequential or knowledge-aware model finds the files and fields that it needs.

    Raises:
        UserError: Naming the file or the field.
    """
    kind = config["MODEL_TYPE"].name.lower()
    _check_files(config, kind)
    _check_fields(config, kind)


def build_model(config: Config, dataset: Any) -> Any:
    """Build the model of a configuration on its device.

    Raises:
        UserError: If a model of RecBole cannot be built with these options or this dataset, if it needs a
            package that is not installed, or if a run folder cannot hold its state.
    """

    def build() -> Any:
        return config.model_class(config, dataset).to(config["device"])

    if not is_of_recbole(config.model_class):
        model = build()
    else:
        what = f"model {config['model']!r} cannot be built on dataset {config['dataset']!r}"
        model = _in_one_line(config, what, build)
    try:
        pack(other_parameters(model))
    except TypeError as error:
        raise UserError(f"model {config['model']!r}: other_parameter {error}; choose another model") from None
    return model


def missing_package(config: Config, error: ModuleNotFoundError) -> UserError:
    """Return the error for a model of RecBole that imports a package which RecBole does not declare."""
    name = config["model"]
    return UserError(f"model {name!r} needs the package {error.name}; install it, or choose another model")


def _in_one_line(config: Config, what: str, do: Callable[[], T]) -> T:
    try:
        return do()
    except ModuleNotFoundError as error:
        raise missing_package(config, error) from None
    except _FAILURES as error:
        first = str(error).strip().partition("\n")[0][:200]
        given = [
            f"{key}={shown(config[key], 40)}"
            for key, source in config.origin.items()
            if not source.startswith(("properties/", "recbole/")) and key not in ("data_path", "run_dir")
        ]
        fix = f"check {', '.join(given[:8])}" if given else "check the files of the dataset"
        raise UserError(f"{what}: {type(error).__name__}: {first}; {fix}") from error


def _check_files(config: Config, kind: str) -> None:
    """Check that the files are there: RecBole downloads a dataset whose folder is missing."""
    folder, name = Path(config["data_path"]), config["dataset"]
    expected = _inter_files(config)
    if config["MODEL_TYPE"] is ModelType.KNOWLEDGE:
        expected += [folder / f"{name}.kg", folder / f"{name}.link"]
    for file in expected:
        if not file.is_file():
            raise UserError(
                f"{file}: no such dataset file; {config['model']} is a {kind} model and reads "
                f"{', '.join(path.name for path in expected)}. Put RecBole's atomic files there, set "
                "--data_path, or use `recbole-siger prepare`"
            )


def _check_fields(config: Config, kind: str) -> None:
    """Check that a sequential model finds the time of each row."""
    if config["MODEL_TYPE"] is not ModelType.SEQUENTIAL:
        return
    columns, time = config["load_col"], config["TIME_FIELD"]
    inter = "*" if columns is None else columns.get("inter", ())
    needs = f"{config['model']} is a {kind} model and needs the field {time!r}"
    if inter == "*":
        file = _inter_files(config)[0]
        with file.open(encoding=config["encoding"], errors="replace") as stream:
            header = stream.readline().rstrip("\n").split(config["field_separator"])
        if time not in [name.partition(":")[0] for name in header]:
            raise UserError(f"{file}: no field {time!r}; {needs}. Set --TIME_FIELD, or use another model")
    elif time not in inter:
        fields = ", ".join([*inter, str(time)])
        source = config.origin.get("load_col", "configuration")
        raise UserError(
            f"{source}: load_col: {needs}; write --load_col='{{inter: [{fields}]}}', or choose a general "
            "recommender"
        )


def _inter_files(config: Config) -> list[Path]:
    """Return the files of the rows: one, or one for each split."""
    folder, name, splits = Path(config["data_path"]), config["dataset"], config["benchmark_filename"]
    return [folder / f"{name}.{split}.inter" for split in splits] if splits else [folder / f"{name}.inter"]
