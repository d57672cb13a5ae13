"""Scores are compared as the protocol says, a tie is no improvement, and the kept state is a copy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.training.selection import ModelState, Selection


def make_selection(*, bigger: bool = True, protocol: str = "recbole", min_epochs: int = 0) -> Selection:
    class Values(dict[str, Any]):
        run = SimpleNamespace(protocol=protocol, min_epochs=min_epochs)

    return Selection(Values(valid_metric_bigger=bigger))  # type: ignore[arg-type]  # what is read of a Config


@pytest.mark.parametrize("bigger", [True, False])
def test_only_a_strictly_better_score_is_an_improvement(bigger: bool) -> None:
    selection, sign = make_selection(bigger=bigger), 1 if bigger else -1
    assert selection.judge(0.25 * sign, -math.inf * sign, 0) == 0.25 * sign
    tied = selection.judge(0.25 * sign, 0.25 * sign, 1)
    assert (tied < 0.25) if bigger else (tied > -0.25)
    assert tied == pytest.approx(0.25 * sign, abs=1e-11)
    assert selection.judge(0.2 * sign, 0.25 * sign, 2) == 0.2 * sign
    assert selection.epoch == 0
    selection.judge(0.3 * sign, 0.25 * sign, 3)
    assert selection.epoch == 3


def test_a_protocol_rounds_before_it_compares() -> None:
    selection = make_selection(protocol="mmrec")
    assert selection.judge(0.20004, -math.inf, 0) == 0.2
    selection.judge(0.20001, 0.2, 1)
    assert selection.epoch == 0


def test_patience_starts_after_the_first_epochs() -> None:
    selection = make_selection(min_epochs=3)
    assert [selection.steps_before(epoch, 2) for epoch in range(5)] == [-1, -1, -1, 2, 2]


class Model(torch.nn.Module):
    """A model with a parameter, another parameter in RecBole's sense and a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.arange(7.0))
        self.step, self.restore_item_e = 5, torch.ones(3)

    def other_parameter(self) -> dict[str, Any]:
        return {"step": self.step, "restore_item_e": self.restore_item_e}

    def load_other_parameter(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def test_a_kept_state_is_a_copy_and_drops_caches() -> None:
    model, selection = Model(), make_selection()
    with pytest.raises(UserError, match=r"^no epoch produced a valid validation score; see metrics\.jsonl$"):
        selection.restore(model, "cpu")
    selection.state = ModelState.of(model)
    model.step = 11
    with torch.no_grad():
        model.table += 1
    selection.restore(model, "cpu")
    assert model.table.tolist() == list(range(7))
    assert (model.step, model.restore_item_e) == (5, None)
