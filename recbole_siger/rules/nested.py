"""Options of RecBole with a form of their own: dicts, lists, intervals and names.

RecBole ignores a key of a dict that it does not know, and uses its own default for the key that was meant.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from recbole_siger.options.params import MAX_INT, did_you_mean

__all__ = ["FORMS", "form_problem"]

_TABLES = ("inter", "user", "item", "kg", "link")
_NUMBER = r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?inf"
_INTERVAL = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")


def form_problem(key: str, value: Any, tables: Collection[str] = ()) -> str | None:
    """Return what is wrong with the form of an option, with the fix; None for a value that RecBole reads.

    Args:
        key: Name of the option.
        value: Its value.
        tables: Further tables of the dataset, from ``additional_feat_suffix``.

    >>> form_problem("eval_args", {"spilt": {"RS": [8, 1, 1]}})
    'unknown key `spilt`; did you mean `split`?'
    """
    check = FORMS.get(key)
    try:
        if check is not None:
            check(value)
            if key in ("load_col", "unload_col", "unused_col") and value is not None:
                _mapping(value, "{inter: [user_id]}", (*_TABLES, *tables))
    except ValueError as error:
        return str(error)
    return None


def _need(condition: bool, expected: str) -> None:
    if not condition:
        raise ValueError(f"expected {expected}")


def _is_number(value: Any, least: float = float("-inf")) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < float("inf")


def _is_int(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= MAX_INT


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _mapping(value: Any, example: str, known: Collection[str] | None = None) -> Mapping[str, Any]:
    """Return a dict whose keys are all known."""
    _need(isinstance(value, Mapping), f"a dict, such as {example}")
    for key in value:
        if known is not None and key not in known:
            hint = did_you_mean(str(key), known) or f"; the keys are {', '.join(known)}"
            raise ValueError(f"unknown key `{key}`{hint}")
    return value


def _one_of(name: str, value: Any, among: Collection[Any]) -> None:
    if not any(type(value) is type(one) and value == one for one in among):
        words = [str(one) for one in among]
        raise ValueError(f"{name}={value!r}; expected {' or '.join(words)}{did_you_mean(str(value), words)}")


def _optional(check: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda value: None if value is None else check(value)


def _eval_args(value: Any) -> None:
    given = _mapping(value, "{mode: full}", ("split", "group_by", "order", "mode"))
    if "order" in given:
        _one_of("order", given["order"], ("RO", "TO"))
    if "group_by" in given:
        _one_of("group_by", given["group_by"], ("user", "none", "None", None))
    if "split" in given:
        _split(given["split"])
    if "mode" in given:
        modes = given["mode"]
        modes = (
            _mapping(modes, "{valid: full}", ("valid", "test")).values()
            if isinstance(modes, Mapping)
            else [modes]
        )
        for mode in modes:
            known = isinstance(mode, str) and re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d{0,9}", mode)
            _need(bool(known), f"mode full, labeled, uniN or popN, such as uni100, not {mode!r}")


def _split(split: Any) -> None:
    given = _mapping(split, "{RS: [0.8, 0.1, 0.1]}", ("RS", "LS"))
    _need(len(given) == 1, "one way of splitting, {RS: [0.8, 0.1, 0.1]} or {LS: valid_and_test}")
    if "LS" in given:
        _one_of("LS", given["LS"], ("valid_and_test", "valid_only", "test_only"))
        return
    ratios = given["RS"]
    fine = isinstance(ratios, list | tuple) and len(ratios) == 3 and all(_is_number(r, 0) for r in ratios)
    _need(
        fine and ratios[0] > 0, "three ratios of training, validation and test, such as RS: [0.8, 0.1, 0.1]"
    )


def _negatives(value: Any) -> None:
    keys = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
    given = _mapping(value, "{distribution: uniform, sample_num: 1}", keys)
    _need("distribution" in given, "a distribution, such as {distribution: uniform}")
    _one_of("distribution", given["distribution"], ("uniform", "popularity", "none", "None", None))
    for key, number in given.items():
        if number != "none":  # which RecBole and a run folder write where nothing is drawn
            _need(key != "sample_num" or _is_int(number, 1), f"sample_num of at least 1, not {number!r}")
            _need(key != "alpha" or _is_number(number, 0), f"a number alpha of at least 0, not {number!r}")
            _need(key != "dynamic" or isinstance(number, bool), f"dynamic True or False, not {number!r}")
            _need(
                key != "candidate_num" or _is_int(number, 0), f"candidate_num of at least 0, not {number!r}"
            )


def _clip(value: Any) -> None:
    keys = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")
    given = _mapping(value, "{max_norm: 5}", keys)
    _need(_is_number(given.get("max_norm"), 0), "a number max_norm, such as {max_norm: 5}")
    norm = given.get("norm_type", 2.0)
    _need(_is_number(norm) or norm in ("inf", float("inf")), f"a number norm_type, not {norm!r}")


def _columns(value: Any) -> None:
    """Check ``{table: [field, ...]}``."""
    for table, fields in _mapping(value, "{inter: [user_id, item_id]}").items():
        listed = fields == "*" or (isinstance(fields, list | tuple) and all(map(_is_text, fields)))
        _need(listed, f"a list of fields, such as {{{table}: [user_id]}}, not {fields!r}")


def _intervals(value: Any) -> None:
    parts = value.split(";") if isinstance(value, str) else []
    fine = bool(parts) and all(_INTERVAL.fullmatch(part.strip()) for part in parts)
    _need(fine, f'an interval in quotation marks, such as "[5,inf)", not {value!r}')


def _value_intervals(value: Any) -> None:
    for field, interval in _mapping(value, '{rating: "[3,inf)"}').items():
        if not isinstance(interval, list):  # a list of tokens, for a field of tokens
            try:
                _intervals(interval)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None


def _numbers_by_field(example: str, least: float = float("-inf")) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        for field, number in _mapping(value, example).items():
            _need(_is_number(number, least), f"a number for {field}, as in {example}, not {number!r}")

    return check


def _texts(example: str, *, or_one: bool = False) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (or_one and _is_text(value)):
            listed = isinstance(value, list | tuple) and all(map(_is_text, value))
            _need(listed, f"a list of names, such as {example}")

    return check


def _named(*names: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}{did_you_mean(str(value), names)}")

    return check


def _encoding(value: Any) -> None:
    try:
        codecs.lookup(value)
    except (LookupError, TypeError, ValueError):
        raise ValueError("expected an encoding that Python knows, such as utf-8") from None


def _cutoffs(value: Any) -> None:
    ks = value if isinstance(value, list | tuple) else [value]
    _need(len(ks) > 0 and all(_is_int(k, 1) for k in ks), "a positive integer, or a list such as [10, 20]")
    _need(len({*ks}) == len(ks), "different integers")


def _metrics(value: Any) -> None:
    names = value if isinstance(value, list | tuple) else [value]
    _need(len(names) > 0 and all(map(_is_text, names)), "a metric or a list such as [Recall, NDCG]")


def _gpus(value: Any) -> None:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    known = r"|-1|((GPU|MIG)-[\w/-]+|\d+)(,((GPU|MIG)-[\w/-]+|\d+))*"
    _need(
        not isinstance(value, bool) and bool(re.fullmatch(known, text)), "numbers of GPUs, such as 0 or '0,1'"
    )


def _separator(value: Any) -> None:
    _need(isinstance(value, str) and value != "", "text of at least one character, such as ',' or '\\t'")


def _discretization(value: Any) -> None:
    for field, how in _mapping(value, "{age: {method: ED, bucket: 10}}").items():
        given = _mapping(how, f"{{{field}: {{method: ED, bucket: 10}}}}", ("method", "bucket"))
        _one_of("method", given.get("method"), ("ED", "LD"))


def _text(expected: str) -> Callable[[Any], None]:
    return lambda value: _need(isinstance(value, str), expected)


def _weights(value: Any) -> None:
    _mapping(value, "{ent_id: ent_emb}")


FORMS: dict[str, Callable[[Any], None]] = {
    "eval_args": _eval_args,
    "train_neg_sample_args": _optional(_negatives),
    "clip_grad_norm": _optional(_clip),
    "load_col": _optional(_columns),
    "unload_col": _optional(_columns),
    "unused_col": _optional(_columns),
    "val_interval": _optional(_value_intervals),
    "user_inter_num_interval": _optional(_intervals),
    "item_inter_num_interval": _optional(_intervals),
    "entity_kg_num_interval": _optional(_intervals),
    "relation_kg_num_interval": _optional(_intervals),
    "threshold": _optional(_numbers_by_field("{rating: 4}")),
    "seq_len": _optional(_numbers_by_field("{tags: 10}", 1)),
    "discretization": _optional(_discretization),
    "preload_weight": _optional(_weights),
    "rm_dup_inter": _optional(_named("first", "last")),
    "transform": _optional(_named(*_TRANSFORMS)),
    "data_path": _text("a folder, such as dataset"),
    "valid_metric": _text("a metric, such as Recall@20"),
    "NEG_PREFIX": _text("text, such as neg_"),
    "encoding": _encoding,
    "field_separator": _separator,
    "seq_separator": _separator,
    "topk": _cutoffs,
    "metrics": _metrics,
    "gpu_id": _gpus,
    "benchmark_filename": _optional(_texts("[train, valid, test]")),
    "additional_feat_suffix": _optional(_texts("[ent]", or_one=True)),
    "numerical_features": _texts("[age]"),
    "normalize_field": _optional(_texts("[age]")),
    **{
        f"alias_of_{name}_id": _optional(_texts("[other_id]"))
        for name in ("user", "item", "entity", "relation")
    },
}
"""The check of each option; a check raises ValueError with what it expected."""
