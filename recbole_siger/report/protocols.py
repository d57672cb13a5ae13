"""Which rows of a table have the protocol of the first row, and in what another protocol differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["check_protocols"]

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""``{label: results.json of each run}``."""


def check_protocols(results: Results, *, allow_mixed: bool, mixable: bool = True) -> list[str]:
    """Return the labels under another protocol than the first.

    Args:
        results: Content of ``results.json`` of each run, or what is known of it before the run.
        allow_mixed: Whether the table may have other protocols.
        mixable: Whether the command has the option ``--allow_mixed``.

    Raises:
        UserError: If there is another protocol and the table may not have it, or a run has no protocol id.
    """
    first = next(iter(results))
    mixed = _other_protocols(results, first)
    if mixed and not allow_mixed:
        raise UserError(
            f"{first} and {mixed[0]} are evaluated under different protocols "
            f"({_difference(results[first], results[mixed[0]])})"
            + ("; --allow_mixed puts them into one table, marked" if mixable else "")
        )
    return mixed


def _other_protocols(results: Results, reference: str) -> list[str]:
    """Return the labels under another protocol than the reference; if splits differ by seed, ids do too."""
    ids = {}
    for label, of_entry in results.items():
        if not all("protocol_id" in result for result in of_entry):
            raise UserError(f"{label}: a run without protocol_id, made by an older version; run it again")
        ids[label] = {result["protocol_id"] for result in of_entry}
    return [label for label in ids if ids[label] != ids[reference]]


def _difference(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> str:
    """Return the facts in which two protocols differ, in one line."""
    first, second = (dict(results[0].get("protocol_facts") or {}) for results in (one, other))
    by_seed = {result["seed"]: result["protocol_id"] for result in other}
    if all(by_seed.get(result["seed"], result["protocol_id"]) == result["protocol_id"] for result in one):
        return "splits are drawn with the seed, and the seeds are not the same"
    names = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
    both = {key: f"{first.get(key)!r} and {second.get(key)!r}" for key in sorted(names)}
    return ", ".join(f"{key}: {text}" if len(text) < 80 else f"another {key}" for key, text in both.items())
