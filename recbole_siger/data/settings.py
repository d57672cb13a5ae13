"""Options of the data, checked before a file is read: whether they have an effect on this dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.data.dataloader import UserDataLoader
from recbole.data.utils import get_dataloader
from recbole.utils import FeatureType, InputType, ModelType

from recbole_siger.config import Config
from recbole_siger.data.atomic import AtomicFile
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["active_filters", "check_columns", "check_settings", "interaction_columns"]

_COLUMN_OPTIONS = (
    *("val_interval", "threshold", "normalize_field", "numerical_features", "discretization"),
    *("preload_weight", "alias_of_user_id", "alias_of_item_id"),
)
"""Options that name columns; RecBole ignores a column of ``seq_len`` that is not there."""

_FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")


def check_settings(config: Config) -> None:
    """Refuse options of the data that have no effect on this dataset and this model.

    Raises:
        UserError: Naming the source, the option, its value and the fix.
    """
    _check_ids(config)
    _check_tables(config)
    _check_threshold(config)
    _check_negatives(config)
    if config["transform"] is not None and config["MODEL_TYPE"] is not ModelType.SEQUENTIAL:
        text = f"has no effect: {config['model']} reads no sequences; leave the option out"
        raise _problem(config, "transform", text)
    if config["benchmark_filename"] is not None:
        _check_given_split(config)


def check_columns(config: Config, loaded: Mapping[str, FeatureType]) -> None:
    """Refuse options that name a column which is not loaded, or has the wrong type.

    Args:
        config: The configuration.
        loaded: Type of each column that was read.

    Raises:
        UserError: Naming the source, the option, its value and the fix.
    """
    for key in _COLUMN_OPTIONS:
        value: Any = config[key] or {}
        names = [*value, *(value.values() if key == "preload_weight" else ())]
        for name in names:
            if name not in loaded:
                text = f"{name!r} is not a loaded column (loaded: {', '.join(loaded)})"
                hint = f"{did_you_mean(str(name), loaded)}; add it to load_col, or leave it out"
                raise _problem(config, key, text + hint)
    numbers = {name for name, kind in loaded.items() if kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)}
    for name, kept in (config["val_interval"] or {}).items():
        if (name in numbers) == isinstance(kept, list):
            form = '"[3,inf)", for numbers' if name in numbers else "[a, b], a list of tokens"
            raise _problem(config, "val_interval", f"{name}: write {form}")
    for key in ("numerical_features", "discretization"):
        for name in config[key] or ():
            if name not in numbers:
                raise _problem(config, key, f"{name!r} has no numbers; leave it out")
    for name in config["discretization"] or ():
        if name not in config["numerical_features"]:
            raise _problem(config, "discretization", f"{name!r}: list it in numerical_features too")


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


def _check_ids(config: Config) -> None:
    """Refuse options that give one column two meanings, or remove the ids of users and items."""
    meaning: dict[str, str] = {}
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
        if config[key] is not None and meaning.setdefault(config[key], key) != key:
            other = meaning[config[key]]
            source = config.origin.get(other, "configuration")
            raise _problem(config, key, f"{other} (from {source}) is this column too; name another column")
    for kind, other in (("user", "ITEM_ID_FIELD"), ("item", "USER_ID_FIELD")):
        key = f"alias_of_{kind}_id"
        if config[other] in (config[key] or ()):
            raise _problem(config, key, f"{config[other]!r} is {other}; leave it out")
    for name in (config["unused_col"] or {}).get("inter") or ():
        if meaning.get(name) in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
            raise _problem(
                config, "unused_col", f"{name!r} is {meaning[name]}, which every run uses; leave it out"
            )


def _check_tables(config: Config) -> None:
    """Refuse columns from a file that does not exist, two lists of columns for one file, and no interactions.

    RecBole would train without the columns of users or items.
    """
    if config["load_col"] is not None and not config["load_col"].get("inter"):
        text = "names no column of inter; write {inter: [user_id, item_id]}, with further tables after it"
        raise _problem(config, "load_col", text)
    for table in config["additional_feat_suffix"] or ():
        file = Path(config["data_path"]) / f"{config['dataset']}.{table}"
        if not file.is_file():
            raise _problem(config, "additional_feat_suffix", f"{file}: no such file; remove {table!r}")
    for table, columns in (config["unload_col"] or {}).items():
        if columns and (config["load_col"] or {}).get(table):
            text = (
                f"load_col names the columns of {table} to load already; leave out {table!r} in one of them"
            )
            raise _problem(config, "unload_col", text)
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
