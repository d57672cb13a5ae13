"""Evaluation protocols: masked items, evaluated users, source of training negatives.

Both protocols rank all items. They give different numbers on the same scores, so every result names its
protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_siger.common.digests import canonical_digest

__all__ = ["PROTOCOLS", "Protocol", "needs_one_seed", "protocol_id"]

# RecBole's models that draw no random number: on one split every seed gives the same ranking.
_SEEDLESS = {"ADMMSLIM", "EASE", "ItemKNN", "Pop"}


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate a full ranking.

    Attributes:
        masks_validation: Whether validation items are hidden from the test ranking.
        keeps_users_without_training: Whether users without a training row are evaluated.
        train_negatives: Items from which training negatives are drawn.
        selection_decimals: Decimals of the rounded validation metric by which epochs are compared.
    """

    masks_validation: bool
    keeps_users_without_training: bool
    train_negatives: str
    selection_decimals: int | None


PROTOCOLS = {
    "recbole": Protocol(True, True, "all", None),
    "mmrec": Protocol(False, False, "train_items", 4),
}


def protocol_id(facts: Mapping[str, Any]) -> str:
    """Return the id of an evaluation protocol: ``canonical_digest`` of the facts.

    >>> protocol_id({"a": 1, "b": [2]}) == protocol_id({"b": [2], "a": 1}) != protocol_id({"a": 1, "b": [3]})
    True
    """
    return canonical_digest(facts)


def needs_one_seed(model: str, config: Any) -> bool:
    """Tell whether every seed gives the same result: no model, split, candidate or cold item is drawn.

    Args:
        model: Short name of the model.
        config: The values of a run by name: its Config, or what its ``config.yaml`` holds.
    """
    if model not in _SEEDLESS:
        return False
    arguments = config["eval_args"]
    mode = arguments["mode"]
    return (
        bool(config["benchmark_filename"] or arguments["order"] == "TO")
        and (mode["test"] if isinstance(mode, Mapping) else mode) == "full"
        and config["cold_start"] is None
    )
