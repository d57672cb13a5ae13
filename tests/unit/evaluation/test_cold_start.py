"""Which items are cold, and what may be said under `cold_start`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.evaluation.cold_start import ColdStart, assign_parts, draw_cold_items
from tests.toy import QUIET


def settings_of(tmp_path: Path, given: Any) -> ColdStart | None:
    return Config(
        "BPR", "toy", config_dict={**QUIET, "data_path": str(tmp_path)}, command_line={"cold_start": given}
    ).cold_start


def test_defaults_are_lattices(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "{kind: item}")
    assert settings == ColdStart(kind="item", ratio=0.2, seed=123, max_train=5, candidates="all")
    assert settings.facts() == {"kind": "item", "ratio": 0.2, "seed": 123, "candidates": "all"}


def test_none_is_none(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "None") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("item", r"command line: cold_start='item': write a mapping, such as \{kind: item\}"),
        ("{ratio: 0.2}", r"command line: cold_start: kind is missing"),
        ("{kind: items}", r"cold_start: kind='items': expected one of .*did you mean `item`"),
        ("{kind: item, ratio: 1}", r"cold_start: ratio=1: expected a number in \(0, 1\)"),
        ("{kind: item, ratoi: 0.3}", r"cold_start: unknown key `ratoi`; did you mean `ratio`"),
        ("{kind: item, max_train: 3}", r"cold_start: max_train is not for kind item \(keys: kind, ratio, "),
        ("{kind: user, candidates: cold}", r"cold_start: candidates is not for kind user"),
        ("{kind: item_few_shot, max_train: few}", r"cold_start: max_train='few': expected an integer"),
        ("{kind: item, candidates: warm}", r"cold_start: candidates='warm': expected one of 'all', 'cold'"),
        ("{kind: item, seed: -1}", r"cold_start: seed=-1: expected a number in \[0, 4294967296\)"),
    ],
)
def test_bad_values_are_told_in_one_line(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        settings_of(tmp_path, given)
    assert "\n" not in str(caught.value)


@given(st.integers(10, 97), st.floats(0.21, 0.9), st.integers(0, 5))
def test_the_draw(n_items: int, ratio: float, seed: int) -> None:
    tokens = [f"i{item}" for item in range(n_items)]
    valid, test = draw_cold_items(tokens, ratio, seed)
    assert len(set(valid) | set(test)) == len(valid) + len(test) == int(ratio * n_items)
    assert len(valid) - len(test) in (0, 1)
    order = np.random.default_rng(seed).permutation(n_items)
    again = draw_cold_items([tokens[place] for place in order], ratio, seed)
    for before, after in zip((valid, test), again, strict=True):
        assert {tokens[place] for place in before} == {tokens[order[place]] for place in after}


def test_another_seed_draws_others() -> None:
    tokens = [f"i{item}" for item in range(97)]
    assert draw_cold_items(tokens, 0.2, 1) != draw_cold_items(tokens, 0.2, 2)


def test_one_item_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="1 of 5 items would be cold"):
        draw_cold_items(list("abcde"), 0.2, 123)


@given(st.lists(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)))
def test_every_interaction_has_one_part(items: list[int], valid: set[int], test: set[int]) -> None:
    parts = assign_parts(np.array(items, dtype=np.int64), np.array(list(valid - test)), np.array(list(test)))
    assert np.sum(parts, axis=0).tolist() == [1] * len(items)
    for item, *found in zip(items, *parts, strict=True):
        assert found == [item not in valid | test, item in valid - test, item in test]
