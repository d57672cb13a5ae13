"""Options of the data, checked before a file is read: their form, and whether they have an effect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.utils import InputType, ModelType

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["active_filters", "check_intervals", "check_settings"]

_FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")

_SUFFIXES = ("inter", "user", "item", "kg", "link", "net")
_INTERVAL = re.compile(r"[\[(]([^,;\[\]()]+),([^,;\[\]()]+)[\])]")


def check_settings(config: Config) -> None:
    """Refuse options of the data that RecBole misreads, and options without an effect.

    Raises:
        UserError: Naming the source, the option, its value and the fix.
    """
    for key in ("field_separator", "seq_separator"):
        if not isinstance(config[key], str) or not config[key]:
            raise _problem(config, key, "write the text between two values, in quotation marks")
    for key in ("load_col", "unload_col"):
        _check_columns(config, key)
    _check_filters(config)
    _check_threshold(config)
    if config["benchmark_filename"] is not None:
        _check_given_split(config)


def active_filters(config: Config) -> dict[str, Any]:
    """Return the options that remove interactions before the split, without those that remove none."""
    values = {key: config[key] for key in _FILTERS}
    return {key: value for key, value in values.items() if value is not None and value != "[0,inf)"}


def _problem(config: Config, key: str, text: str) -> UserError:
    return UserError(f"{config.origin.get(key, 'configuration')}: {key}={config[key]!r}: {text}")


def _check_columns(config: Config, key: str) -> None:
    """Hold ``load_col`` and ``unload_col`` to ``{suffix: [column, ...]}``."""
    value = config[key]
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise _problem(config, key, "write columns by file, as in {inter: [user_id, item_id]}")
    suffixes = [*_SUFFIXES, *(config["additional_feat_suffix"] or ())]
    for suffix, columns in value.items():
        if suffix not in suffixes:
            hint = did_you_mean(str(suffix), suffixes)
            raise _problem(config, key, f"{suffix!r} is no file of a dataset{hint} ({', '.join(suffixes)})")
        if columns == "*" and key == "load_col":
            continue
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise _problem(config, key, f"{suffix}: write a list of columns, as in [user_id, item_id]")
        file = Path(config["data_path"]) / f"{config['dataset']}.{suffix}"
        if columns and suffix in ("user", "item") and key == "load_col" and not file.is_file():
            raise _problem(config, key, f"{file}: no such file; remove {suffix!r}")


def _check_filters(config: Config) -> None:
    """Hold the options that remove rows to the values that RecBole understands."""
    if config["rm_dup_inter"] not in (None, "first", "last"):
        text = "write first or last, the row of a repeated pair that is kept, or None to keep all"
        raise _problem(config, "rm_dup_inter", text)
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        if config[key] is not None:
            check_intervals(config, key, config[key])
    if not isinstance(config["val_interval"] or {}, Mapping):
        raise _problem(config, "val_interval", "write intervals by column, as in {rating: '[3,inf)'}")


def check_intervals(config: Config, key: str, value: Any) -> None:
    """Refuse text that is not intervals such as ``"[5,inf)"`` or ``"[1,2];(4,6)"``.

    Args:
        config: The configuration.
        key: The option, for the error.
        value: The intervals.

    Raises:
        UserError: If RecBole would ignore an interval or could not read it.
    """
    for one in str(value).split(";"):
        match = _INTERVAL.fullmatch(one.strip())
        try:
            left, right = map(float, match.groups()) if match else (1, 0)
        except ValueError:
            left, right = 1, 0
        if not left <= right:
            text = f"{one!r} is not an interval; write '[LEAST,GREATEST]'; ( or ) excludes an end"
            raise _problem(config, key, text)


def _check_threshold(config: Config) -> None:
    """Refuse a threshold for labels that nothing reads."""
    if config["threshold"] is None or config["MODEL_TYPE"] not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        return
    drawn = config["train_neg_sample_args"]["distribution"] != "none"
    if drawn or config["MODEL_INPUT_TYPE"] != InputType.POINTWISE:
        text = f"has no effect: {config['model']} reads no labels and takes every row for a positive"
        raise _problem(config, "threshold", f"{text}; keep rows by value with val_interval instead")


def _check_given_split(config: Config) -> None:
    """Refuse what RecBole ignores where the dataset has one file for each part of the split."""
    parts = config["benchmark_filename"]
    if not isinstance(parts, list) or len(parts) != 3 or len(set(map(str, parts))) != 3:
        text = "name three files: training, validation and test, as in [train, valid, test]"
        raise _problem(config, "benchmark_filename", text)
    why = f"has no effect: the dataset is split already (benchmark_filename={parts})"
    fix = "filter before the split, as `recbole-siger prepare` does with --k_core, and leave it out"
    for key in active_filters(config):
        raise _problem(config, key, f"{why}; {fix}")
    below = config.internal_config_dict.get("eval_args") or {}
    given = config.external_config_dict.get("eval_args") or {}
    for key in ("split", "order", "group_by"):
        if key in given and given[key] != below.get(key):
            source = config.origin.get("eval_args", "configuration")
            raise UserError(f"{source}: eval_args: {key}={given[key]!r} {why}; leave it out")
