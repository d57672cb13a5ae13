"""Values of a YAML file, each checked, with its place for errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.yaml_values import shown

__all__ = ["Entries"]


class Entries:
    """The values of one mapping of a file.

    Args:
        file: The file, for errors.
        place: Place of the mapping in the file, such as ``rows[2].``; empty for the whole file.
        values: The mapping.
        known: Keys that the mapping may have.

    Raises:
        UserError: If ``values`` is not a mapping, or has an unknown key.
    """

    def __init__(self, file: str, place: str, values: Any, known: Collection[str]) -> None:
        self.file, self.place = file, place
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise UserError(
                f"{file}: {place.rstrip('.')}={shown(values)}: write a mapping with the keys "
                f"{', '.join(known)}"
            )
        self.values: dict[str, Any] = {str(key): value for key, value in values.items()}
        for key in self.values:
            if key not in known:
                hint = did_you_mean(key, known) or f"; the keys are {', '.join(known)}"
                raise UserError(f"{file}: {place}{key}: unknown key{hint}")

    def fail(self, key: str, fix: str, value: Any = None) -> NoReturn:
        """Raise a UserError about a key."""
        given = self.values.get(key) if value is None else value
        raise UserError(f"{self.file}: {self.place}{key}={shown(given)}: {fix}")

    # ---- single values

    def as_text(self, key: str, value: Any) -> str:
        """Return a value that must be text."""
        if not isinstance(value, str) or not value.strip():
            self.fail(key, "write text", value)
        return " ".join(value.split())

    def text(self, key: str, default: str | None = None) -> str:
        """Return the text of a key; without a default the key must be given."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise UserError(f"{self.file}: {self.place}{key} is missing; write {key}: TEXT")
            return default
        return self.as_text(key, value)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """Return one of some words."""
        return self.one_of(key, self.text(key, default), choices)

    def one_of(self, key: str, value: str, choices: Collection[str]) -> str:
        """Return a word if it is one of ``choices``."""
        if value not in choices:
            hint = did_you_mean(value, choices).removeprefix("; ")
            self.fail(key, hint or f"expected one of {', '.join(choices)}", value)
        return value

    def as_number(self, key: str, value: Any) -> float:
        """Return a value that must be a number >= 0."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            self.fail(key, "write a number in [0, 1e9)", value)
        return float(value)

    def number(self, key: str, default: float) -> float:
        """Return the number of a key."""
        return self.as_number(key, default if self.values.get(key) is None else self.values[key])

    def whole(self, key: str, default: int) -> int:
        """Return the integer of a key, in [1, 100]."""
        value = self.values.get(key, default)
        if type(value) is not int or not 1 <= value <= 100:
            self.fail(key, "write an integer in [1, 100]")
        return value

    # ---- several values

    def texts(self, key: str, *, needed: bool = False) -> list[str]:
        """Return the texts of a key: a list, or one text."""
        value = self.values.get(key)
        if value is None and not needed:
            return []
        listed: list[Any] = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
            self.fail(key, "write a list of texts, such as [a, b]")
        return [" ".join(one.split()) for one in listed]

    def options(self, key: str) -> dict[str, Any]:
        """Return a mapping of options; `Config` checks the options themselves."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(key, "write a mapping of options, such as {learning_rate: 0.001}")
        for name in ("model", "dataset", "seed", "run_dir"):
            if name in value:
                self.fail(f"{key}.{name}", "the table sets this option; remove it", value[name])
        return {str(name): one for name, one in value.items()}

    def numbers(self, key: str, value: Any, names: Sequence[str]) -> dict[str, float]:
        """Return ``{name: number}``: a list in the order of ``names``, or a mapping; ~ leaves a name out."""
        if isinstance(value, list):
            if len(value) != len(names):
                self.fail(key, f"write {len(names)} numbers: {', '.join(names)}", value)
            value = dict(zip(names, value, strict=True))
        inner = Entries(self.file, f"{self.place}{key}.", value, names)
        return {name: inner.as_number(name, one) for name, one in inner.values.items() if one is not None}

    def named(self, key: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mapping whose keys are among ``known``."""
        return Entries(self.file, f"{self.place}{key}.", self.values.get(key), tuple(known)).values

    def mapping_of(
        self, key: str, keys: Collection[str], known: Mapping[str, Any] | None = None
    ) -> dict[str, Entries]:
        """Return a mapping of mappings, ``{name: entries}``."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.fail(key, "write a mapping, such as {baby: {}}")
        names = self.named(key, known) if known is not None else (value or {})
        return {
            str(name): Entries(self.file, f"{self.place}{key}.{name}.", one, keys)
            for name, one in names.items()
        }

    def list_of(self, key: str, keys: Collection[str]) -> list[Entries]:
        """Return a list of mappings."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            self.fail(key, "write a list, each entry behind a hyphen")
        return [
            Entries(self.file, f"{self.place}{key}[{number}].", one, keys)
            for number, one in enumerate(value or [], start=1)
        ]
