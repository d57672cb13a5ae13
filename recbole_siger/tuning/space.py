"""The space of a search: values for each key, checked before any trial runs, and points of the space."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_siger.common.digests import canonical_digest
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.yaml_values import parse_value, read_yaml
from recbole_siger.registry import is_shipped, search_file

__all__ = ["Point", "Range", "Space", "draw_points", "n_points", "point_id", "read_space"]

Point = dict[str, Any]
"""A value for each key of a space."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; integers if both ends are integers.

    Attributes:
        low: Lower end; above 0 if ``log``.
        high: Upper end.
        log: Whether orders of magnitude are equally likely, instead of equal distances.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether the range holds integers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> float | int:
        """Return the value below which ``share`` of the draws fall, ``share`` in [0, 1).

        >>> Range(1, 4).at(0.75), Range(1e-4, 1.0, log=True).at(0.5)
        (4, 0.01)
        """
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = math.floor(value + 1e-9) if self.whole else float(f"{value:.6g}")
        return min(max(value, self.low), self.high)


MAX_GRID = 100_000
"""Points of a whole grid; the points are listed before the first trial."""

Space = dict[str, list[Any] | Range]
"""Key -> a list of values, or a range."""

# All trials of a search use the same data and the same measure; these keys decide data and measure.
_MEASURED = (
    *(
        "model",
        "dataset",
        "features",
        "user_features",
        "protocol",
        "cold_start",
        "eval_args",
        "metrics",
        "topk",
    ),
    *("valid_metric", "repeatable", "benchmark_filename", "load_col", "rm_dup_inter", "threshold"),
    *("user_inter_num_interval", "item_inter_num_interval", "val_interval"),
)
_NOT_SEARCHED = {
    **dict.fromkeys(_MEASURED, "the key decides what is measured; set it once, as --key=value"),
    **dict.fromkeys(NO_EFFECT, "the key changes no result; set it once, as --key=value"),
    "seed": "--seeds=2020,2021 repeats each point",
    "nproc": "a trial is one process",
}


def read_space(config: Config, file: str | Path | None = None, pairs: Sequence[str] = ()) -> Space:
    """Read the space of a search, and check every value against the model's options.

    Args:
        config: The configuration that all trials share.
        file: YAML with ``key: [values]`` or ``key: {low: , high: , log: }``. Without ``file`` and
            ``pairs``: ``properties/search/<Model>.yaml``, or ``<Class>.search.yaml`` beside the module of an
            imported model.
        pairs: ``key=value,value``; overrides the file.

    Raises:
        UserError: With file, key and value.
    """
    model = config["model"]
    space: dict[str, Any] = {}
    source = str(file)
    if file is not None and not Path(file).is_file():
        raise UserError(f"--space={file}: no such file")
    if file is not None or not pairs:
        default = f"properties/search/{model}.yaml"
        if not is_shipped(config.model_class):
            default = f"{config.model_class.__name__}.search.yaml beside its module"
        path = Path(file) if file is not None else search_file(config.model_class, model)
        if path is None:
            raise UserError(
                f"{model} has no {default}; give a space with --space=FILE or --set key=value,value"
            )
        source = str(file or default)
        space = {key: _values(source, key, value) for key, value in read_yaml(path).items()}
    origin = dict.fromkeys(space, source)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals and text):
            raise UserError(f"--set {pair}: write --set key=value,value")
        if origin.get(key) == "command line":
            raise UserError(f"command line: --set {key} is given twice; write --set {key}=value,value")
        listed = text if text.lstrip().startswith("{") else f"[{text}]"
        values = parse_value(listed, f"command line: --set {key}")
        space[key], origin[key] = _values("command line", key, values), "command line"
    if not space:
        raise UserError(f"{source}: has no key; write `key: [values]` lines")
    for key, tried in space.items():
        _check(config, key, tried, origin[key])
    return space


def _values(source: str, key: str, given: Any) -> list[Any] | Range:
    if isinstance(given, list) and given:
        texts = [json.dumps(value, sort_keys=True, default=str) for value in given]
        if len(set(texts)) == len(texts):
            return given
        raise UserError(f"{source}: {key}={given!r}: the list repeats a value; keep each value once")
    if isinstance(given, dict) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        low, high, log = given["low"], given["high"], given.get("log", False)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if numbers and low < high and isinstance(log, bool) and not (log and low <= 0):
            return Range(low, high, log)
        raise UserError(f"{source}: {key}={given!r}: expected low < high, and low > 0 with log: true")
    raise UserError(
        f"{source}: {key}={given!r}: write a list of values, or {{low: 1e-5, high: 1e-2, log: true}}"
    )


def _check(config: Config, key: str, tried: list[Any] | Range, source: str) -> None:
    """Reject a key or a value that a trial would reject."""
    if key in _NOT_SEARCHED:
        raise UserError(f"{source}: {key} cannot be searched: {_NOT_SEARCHED[key]}")
    if key not in config.known_keys():
        raise UserError(f"{source}: unknown key `{key}`{did_you_mean(key, config.known_keys())}")
    for value in [tried.low, tried.high] if isinstance(tried, Range) else tried:
        try:
            Config(config["model"], config_dict={**config.effective(), key: value})
        except UserError as error:
            raise UserError(str(error).replace("config_dict:", f"{source}:", 1)) from None


def n_points(space: Space) -> float:
    """Return the number of points of a space.

    >>> n_points({"a": ["x", "y"], "b": Range(1, 4)}), n_points({"c": Range(0.0, 1.0)})
    (8, inf)
    """
    return math.prod(
        len(tried)
        if not isinstance(tried, Range)
        else int(tried.high) - int(tried.low) + 1
        if tried.whole
        else math.inf
        for tried in space.values()
    )


def draw_points(
    space: Space, n: int | None, *, seed: int, grid: bool, defaults: Mapping[str, Any]
) -> list[Point]:
    """Return the points of a grid, or points drawn at random, without repetition.

    The order is random: ASHA compares a trial with those before it, and in the grid's order each would be a
    little better than the last, or worse. A grid begins with the point of the model's defaults if it has that
    point, also a grid reduced to ``n`` random points. Random points are distinct, and at most ``n``.

    Args:
        space: Values to search.
        n: Number of points; None for the whole grid.
        seed: Seed of the draws.
        grid: Whether to return every combination, or ``n`` random points.
        defaults: The model's default values.

    Raises:
        UserError: If ``grid`` is set and the space has a range, or the whole grid is too large to be listed.
    """
    ranges = [key for key, tried in space.items() if isinstance(tried, Range)]
    if grid and ranges:
        raise UserError(f"{ranges[0]}: a range has no grid; list its values, or use --search=random or bayes")
    random = np.random.default_rng(seed)
    lists = {key: tried for key, tried in space.items() if not isinstance(tried, Range)}
    size = math.prod(map(len, lists.values()))
    if n is None and size > MAX_GRID:
        raise UserError(f"the grid has {size:,} points; try a part of it with --num_samples=N")
    if not ranges and size < 2**63:  # numpy draws smaller numbers only
        n = size if n is None else min(n, size)
        first = _place_of(lists, defaults)
        others = random.choice(size - (first is not None), n - (first is not None), replace=False).tolist()
        places = others if first is None else [first, *(i + (i >= first) for i in others)]
        return [_point_at(lists, i) for i in places]
    assert n is not None
    points: dict[str, Point] = {}
    for _ in range(20 * n):  # a space of integers may have fewer than n points
        point = {key: _draw(tried, random) for key, tried in space.items()}
        points.setdefault(point_id(point, 0), point)
        if len(points) == n:
            break
    return list(points.values())


def _draw(tried: list[Any] | Range, random: np.random.Generator) -> Any:
    share = float(random.random())
    return tried.at(share) if isinstance(tried, Range) else tried[int(share * len(tried))]


def _point_at(lists: Mapping[str, list[Any]], place: int) -> Point:
    """Return the point at an index of a grid; the last key changes fastest."""
    point = {}
    for key, values in reversed(list(lists.items())):
        place, number = divmod(place, len(values))
        point[key] = values[number]
    return {key: point[key] for key in lists}


def _place_of(lists: Mapping[str, list[Any]], defaults: Mapping[str, Any]) -> int | None:
    """Return the index of the defaults in a grid, or None if they are not on the grid."""
    place = 0
    for key, values in lists.items():
        if defaults.get(key) not in values:
            return None
        place = place * len(values) + values.index(defaults.get(key))
    return place


def point_id(point: Mapping[str, Any], seed: int) -> str:
    """Return the id of a point and a seed, 16 hexadecimal digits; the order of the keys has no effect.

    >>> point_id({"a": 1, "b": 2}, 3) == point_id({"b": 2, "a": 1}, 3)
    True
    """
    return canonical_digest({"seed": seed, **point})
