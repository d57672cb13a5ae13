"""Options of the data, checked before a file is read: whether they have an effect on this dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.data.dataloader import UserDataLoader
from recbole.data.utils import get_dataloader
from recbole.utils import InputType, ModelType

from recbole_siger.config import Config
from recbole_siger.data.atomic import AtomicFile
from recbole_siger.errors import UserError

__all__ = ["active_filters", "check_settings", "interaction_columns"]

_FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")


def check_settings(config: Config) -> None:
    """Refuse options of the data that have no effect on this dataset and this model.

    Raises:
        UserError: Naming the source, the option, its value and the fix.
    """
    _check_tables(config)
    _check_threshold(config)
    _check_negatives(config)
    if config["benchmark_filename"] is not None:
        _check_given_split(config)


def interaction_columns(config: Config) -> list[str]:
    """Return the names of the columns of the dataset's first interaction file.

    Raises:
        UserError: If the file cannot be read, or its first line does not name columns.
    """
    part = f".{config['benchmark_filename'][0]}" if config["benchmark_filename"] else ""
    path = Path(config["data_path"]) / f"{config['dataset']}{part}.inter"
    file = AtomicFile(path, config["field_separator"], config["encoding"] or "utf-8")
    return [field.name for field in file.fields]


def active_filters(config: Config) -> dict[str, Any]:
    """Return the options that remove interactions before the split, without those that remove none."""
    values = {key: config[key] for key in _FILTERS}
    return {key: value for key, value in values.items() if value is not None and value != "[0,inf)"}


def _problem(config: Config, key: str, text: str) -> UserError:
    return UserError(f"{config.origin.get(key, 'configuration')}: {key}={config[key]!r}: {text}")


def _check_tables(config: Config) -> None:
    """Refuse columns of users or items from a file that does not exist; RecBole would train without them."""
    for table, columns in (config["load_col"] or {}).items():
        file = Path(config["data_path"]) / f"{config['dataset']}.{table}"
        if columns and table in ("user", "item") and not file.is_file():
            raise _problem(config, "load_col", f"{file}: no such file; remove {table!r}")


def _check_threshold(config: Config) -> None:
    """Refuse a threshold for labels that nothing reads."""
    if config["threshold"] is None or config["MODEL_TYPE"] not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        return
    drawn = config["train_neg_sample_args"]["distribution"] != "none"
    if drawn or config["MODEL_INPUT_TYPE"] != InputType.POINTWISE:
        text = f"has no effect: {config['model']} reads no labels and takes every row for a positive"
        raise _problem(config, "threshold", f"{text}; keep rows by value with val_interval instead")


def _check_negatives(config: Config) -> None:
    """Refuse training without negatives for a model that compares each positive item with a negative item.

    RecBole declares its autoencoders as such models too, but they train on whole users without negatives.
    """
    if get_dataloader(config, "train") is UserDataLoader:
        return
    needed = config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE and _distribution(
        config.internal_config_dict.get("train_neg_sample_args")
    )
    if needed and not _distribution(config["train_neg_sample_args"]):
        text = f"{config['model']} trains with negative items; leave the option out"
        raise _problem(config, "train_neg_sample_args", text)


def _distribution(negatives: Any) -> str | None:
    """Return the distribution of negatives; None without negatives, which has three forms."""
    name = (negatives or {}).get("distribution")
    return None if name in (None, "none") else name


def _check_given_split(config: Config) -> None:
    """Refuse what RecBole ignores where the dataset has one file for each part of the split."""
    parts = config["benchmark_filename"]
    if len(set(parts)) != 3 or len(parts) != 3:
        text = "name three files: training, validation and test, as in [train, valid, test]"
        raise _problem(config, "benchmark_filename", text)
    why = f"has no effect: the dataset is split already (benchmark_filename={parts})"
    fix = "filter before the split, as `recbole-siger prepare` does with --k_core, and leave it out"
    for key in active_filters(config):
        raise _problem(config, key, f"{why}; {fix}")
    # The value in effect, of the user or of the dataset's own YAML, against RecBole's for any dataset.
    layers = (config.external_config_dict, config.internal_config_dict)
    given: dict[str, Any] = next((layer["eval_args"] for layer in layers if layer.get("eval_args")), {})
    for key in ("split", "order", "group_by"):
        if key in given and given[key] != config.general_eval_args.get(key):
            source = config.origin.get("eval_args", "configuration")
            raise UserError(f"{source}: eval_args: {key}={given[key]!r} {why}; leave it out")
