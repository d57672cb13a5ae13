"""Typed parameters: a frozen dataclass holds types and ranges, the YAML holds the defaults.

>>> @dataclass(frozen=True, kw_only=True)
... class Params:
...     temperature: float = bounded("(0, inf)")
>>> build_params(Params, {"temperature": 1})
Params(temperature=1.0)
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from recbole_siger.errors import UserError
from recbole_siger.options.resources import file_beside, find_resource
from recbole_siger.options.yaml_values import plain_value, read_yaml, shown

__all__ = ["ModelParams", "Option", "bounded", "build_params", "declared_defaults", "did_you_mean", "options"]

P = TypeVar("P")

MAX_INT = 2**63 - 1
"""The largest integer that numpy and torch hold."""


def bounded(interval: str, default: Any = MISSING) -> Any:
    """Declare a number's range in RecBole's notation, such as ``"[1, inf)"`` or ``"(0, 1]"``.

    Args:
        interval: The range.
        default: The default of an imported model without a YAML. Models of this package have a YAML.
    """
    _parse(interval)
    return field(metadata={"interval": interval}, default=default)


def _parse(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    if interval[0] not in "[(" or interval[-1] not in "])":
        raise ValueError(f"not an interval: {interval!r}")
    return float(low), float(high)


def _inside(value: float, interval: str) -> bool:
    low, high = _parse(interval)
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


@dataclass(frozen=True)
class Option:
    """One parameter: its name, annotated type and range ("" without a range)."""

    name: str
    type: Any
    interval: str

    @property
    def range(self) -> str:
        """The accepted values, in words."""
        if get_origin(self.type) is Literal:
            return " | ".join(str(value) for value in get_args(self.type))
        return self.interval

    def convert(self, value: Any) -> Any:
        """Return ``value`` in the option's type.

        Raises:
            ValueError: With what was expected, if type or range is wrong.
        """
        converted = _convert(value, self.type)
        for number in converted if isinstance(converted, tuple) else (converted,):
            if isinstance(number, int) and abs(number) > MAX_INT:
                raise ValueError(f"expected at most {MAX_INT} in absolute value")
            if self.interval and number is not None and not _inside(number, self.interval):
                raise ValueError(f"expected a number in {self.interval}")
        return converted


def _convert(value: Any, annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        if value not in args:
            raise ValueError(f"expected one of {', '.join(map(repr, args))}" + did_you_mean(str(value), args))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError("expected a list, such as [a, b]")
        return tuple(_convert(entry, args[0]) for entry in value)
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise ValueError("expected a number below 1e308") from None
        if math.isnan(number):
            raise ValueError("expected a number")
        return number
    if isinstance(value, str) and "\0" in value:
        raise ValueError("text cannot contain the character NUL")
    if type(value) is not annotation:
        quote = "; write text in quotation marks" if annotation is str else ""
        names = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
        raise ValueError(f"expected {names[annotation]}{quote}")
    return value


def options(cls: type) -> list[Option]:
    """List the parameters that the dataclass ``cls`` declares, in order."""
    return list(_options(cls))


@cache
def _options(cls: type) -> tuple[Option, ...]:
    hints = get_type_hints(cls)
    return tuple(Option(f.name, hints[f.name], f.metadata.get("interval", "")) for f in fields(cls))


def build_params(
    cls: Callable[..., P], values: Mapping[str, Any], origin: Mapping[str, str] | None = None
) -> P:
    """Make the typed parameters ``cls`` from configuration values.

    Args:
        cls: A frozen dataclass; ``values`` holds a value for each of its fields.
        values: Configuration; keys that ``cls`` does not declare are ignored.
        origin: Source of each value, for errors.

    Raises:
        UserError: With key, value, range and source.
    """
    arguments = {}
    for option in options(cls):  # type: ignore[arg-type]  # a dataclass is a class
        where = (origin or {}).get(option.name, "configuration")
        if option.name not in values:
            raise UserError(f"{where}: {option.name} is missing; give it a value ({option.range or 'any'})")
        try:
            arguments[option.name] = option.convert(values[option.name])
        except ValueError as error:
            raise UserError(f"{where}: {option.name}={shown(values[option.name])}: {error}") from None
    return cls(**arguments)


def declared_defaults(cls: type) -> dict[str, Any]:
    """Return the defaults that the fields of the dataclass ``cls`` declare, as YAML would give them.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Params:
    ...     k: int = bounded("[1, inf)", default=5)
    ...     temperature: float = bounded("(0, inf)")
    >>> declared_defaults(Params)
    {'k': 5}
    """
    values = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """Base of the parameters of a model: a subclass ``<Model>Params`` declares types and ranges."""

    @classmethod
    def defaults_file(cls) -> Path | None:
        """Return the YAML of the defaults, or None if there is none.

        The file is ``<Model>.yaml`` beside the module of an imported model, else
        ``properties/model/<Model>.yaml``. A subclass whose YAML is in another place overrides this method.
        """
        name = f"{cls.__name__.removesuffix('Params')}.yaml"
        return file_beside(cls, name) or find_resource(f"properties/model/{name}")

    @classmethod
    def defaults(cls, **changes: Any) -> Self:
        """Make the parameters from the defaults, with some of them changed.

        A default in the YAML overrides a default in the dataclass. A subclass inherits the YAML of its
        base class.

        Args:
            changes: New values by name.

        Raises:
            UserError: With key and value, if a name is unknown, a default is missing, or a value has a
                wrong type or range.

        Example:
            ``SIGERParams.defaults(embedding_size=32, noise_eps=0.1)``
        """
        source = f"{cls.__name__}.defaults"
        known = [option.name for option in options(cls)]
        for key in changes:
            if key not in known:
                hint = did_you_mean(key, known) or f"; the parameters are {', '.join(known)}"
                raise UserError(f"{source}: unknown key `{key}`{hint}")
        values = declared_defaults(cls)
        origin: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            path = base.defaults_file() if issubclass(base, ModelParams) else None
            found = {} if path is None else read_yaml(path)
            values |= found
            origin |= dict.fromkeys(found, str(path))
        values |= plain_value(changes)
        missing = [key for key in known if key not in values]
        if missing:
            raise UserError(
                f"{cls.__name__}: {missing[0]} has no default; add "
                f"{cls.__name__.removesuffix('Params')}.yaml, or a default in the dataclass"
            )
        return build_params(cls, values, {**origin, **dict.fromkeys(changes, source)})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean `x`?"`` for the closest known word, or nothing.

    >>> did_you_mean("n_co_neighbours", ["n_co_neighbors", "n_ui_layers"])
    '; did you mean `n_co_neighbors`?'
    """
    by_lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean `{by_lower[close[0]]}`?" if close else ""
