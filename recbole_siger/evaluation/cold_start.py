"""Cold items and cold users: their selection and their options.

``cold_start: {kind: item}`` makes its own split: a random share of the items loses every training row. Half
    of
these items are in validation and half are in test (LATTICE's protocol, Zhang et al., ACM MM 2021).
``{kind: item_few_shot}`` and ``{kind: user}`` keep the given split and report its results for the items or
users with at most ``max_train`` training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import Mask
from recbole_siger.evaluation.ranking import Ids
from recbole_siger.options.params import bounded, build_params, did_you_mean, options

__all__ = ["ColdStart", "assign_parts", "build_cold_start", "draw_cold_items"]


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Types and ranges; ``properties/cold_start.yaml`` documents the options and sets their defaults."""

    kind: Literal["item", "item_few_shot", "user"]
    ratio: float = bounded("(0, 1)")
    seed: int = bounded("[0, 4294967296)")
    max_train: int = bounded("[0, inf)")
    candidates: Literal["all", "cold"]

    def facts(self) -> dict[str, Any]:
        """Return the options that apply to this kind."""
        return {key: value for key, value in asdict(self).items() if key in _KEYS[self.kind]}

    @property
    def redraws(self) -> bool:
        """Whether cold start makes its own split."""
        return self.kind == "item"


_KEYS = {
    "item": ("kind", "ratio", "seed", "candidates"),
    "item_few_shot": ("kind", "max_train", "candidates"),
    "user": ("kind", "max_train"),
}


def build_cold_start(given: Any, defaults: Mapping[str, Any], source: str) -> ColdStart | None:
    """Check the value of ``cold_start`` in the configuration.

    Args:
        given: The value; None for no cold start.
        defaults: Values of the keys that are not given.
        source: Source of the value, for errors.

    Raises:
        UserError: If the value is not a mapping, or a key is unknown or belongs to another kind.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise UserError(f"{source}: cold_start={given!r}: write a mapping, such as {{kind: item}}")
    known = [option.name for option in options(ColdStart)]
    for key in given:
        if key not in known:
            raise UserError(
                f"{source}: cold_start: unknown key `{key}`{did_you_mean(str(key), known)} "
                f"(keys: {', '.join(known)})"
            )
    inner = {f"{key}": value for key, value in {**defaults, **given}.items()}
    made = build_params(ColdStart, inner, dict.fromkeys(known, f"{source}: cold_start"))
    for key in given:
        if key not in _KEYS[made.kind]:
            raise UserError(
                f"{source}: cold_start: {key} is not for kind {made.kind} "
                f"(keys: {', '.join(_KEYS[made.kind])})"
            )
    return made


def draw_cold_items(tokens: Sequence[str], ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Draw items without replacement, half of them for validation and half for test.

    The draw is over sorted tokens, so the order of the items has no effect. If the number of drawn items is
    odd, validation gets one item more, as in LATTICE.

    Args:
        tokens: Distinct raw tokens of the items that have an interaction, length n.
        ratio: Share of the items to draw, in (0, 1); ``int(ratio * n)`` items are drawn.
        seed: Seed of the draw.

    Returns:
        Positions in ``tokens`` of the items of validation and of test, ascending.

    Raises:
        ValueError: If fewer than two items are drawn, or all items.

    Example:
        >>> valid, test = draw_cold_items(["d", "a", "c", "b", "e"], 0.4, seed=123)
        >>> len(valid), len(test), set(valid) & set(test)
        (1, 1, set())
    """
    n_cold = int(ratio * len(tokens))
    if n_cold < 2:
        raise ValueError(f"{n_cold} of {len(tokens)} items would be cold; at least two are required")
    order = np.argsort(np.asarray(tokens, dtype=str), kind="stable")
    drawn = order[np.random.default_rng(seed).choice(len(tokens), n_cold, replace=False)].tolist()
    half = n_cold // 2
    return sorted(drawn[half:]), sorted(drawn[:half])


def assign_parts(items: Ids, valid_items: Ids, test_items: Ids) -> tuple[Mask, Mask, Mask]:
    """Assign every interaction to the part of its item: train for warm items, else validation or test.

    Args:
        items: Item of each interaction of all parts, shape ``(E,)``.
        valid_items: Cold items to validate, shape ``(V,)``.
        test_items: Cold items to test, shape ``(T,)``, disjoint from ``valid_items``.

    Returns:
        Masks of train, validation and test, ``(E,)`` each; each interaction is in one.

    Example:
        >>> [mask.tolist() for mask in assign_parts(np.array([1, 2, 3, 1]), np.array([2]), np.array([3]))]
        [[True, False, False, True], [False, True, False, False], [False, False, True, False]]
    """
    valid, test = np.isin(items, valid_items), np.isin(items, test_items)
    return ~(valid | test), valid, test
