"""Scores are compared as the protocol says, a tie is no improvement, and the kept state is a copy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.training.selection import ModelState, Plateau, Selection, doubts


def make_selection(
    *, bigger: bool = True, protocol: str = "recbole", min_epochs: int = 0, patience_from: str = "start"
) -> Selection:
    class Values(dict[str, Any]):
        run = SimpleNamespace(protocol=protocol, min_epochs=min_epochs, patience_from=patience_from)

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


LN2 = math.log(2)


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([0.6931, 0.66, 0.625, 0.62, 0.5], [False, False, False, True, True]),  # 0.9 ln 2 = 0.6238
        ([0.69, 0.6, 0.69], [False, True, True]),  # a plateau that is over does not begin again
        ([0.61], [True]),  # a large dataset: one epoch is enough
        ([2048 * LN2, 2048 * 0.63, 2048 * 0.62], [False, False, True]),  # a sum over the batch
        ([1.0, 0.91, 0.89], [False, False, True]),  # base-2 logarithms
        ([None, None], [True, True]),  # no BPR loss
    ],
)
def test_the_plateau_is_over_when_the_bpr_loss_has_fallen(
    losses: list[float | None], over: list[bool]
) -> None:
    plateau, found = Plateau(), []
    for epoch, loss in enumerate(losses):
        plateau.add(epoch, loss)
        found.append(plateau.is_over)
    assert found == over


def test_a_model_can_name_the_loss_of_equal_scores() -> None:
    plateau, found = Plateau(equal=LN2 / 2), []
    for epoch, loss in enumerate((0.3466, 0.33, 0.311)):
        plateau.add(epoch, loss)
        found.append(plateau.is_over)
    assert found == [False, False, True]


def test_a_plateau_ends_after_100_epochs() -> None:
    plateau = Plateau()
    for epoch in range(99):
        plateau.add(epoch, LN2)
        assert not plateau.is_over
    plateau.add(99, LN2)
    assert plateau.is_over


def test_patience_starts_after_the_plateau() -> None:
    selection, found = make_selection(patience_from="plateau", min_epochs=1), []
    for epoch, loss in enumerate((0.69, 0.68, 0.55, 0.5)):
        selection.plateau.add(epoch, loss)
        found.append(selection.steps_before(epoch, 2))
    assert found == [-1, -1, 2, 2]
    assert make_selection(patience_from="start").steps_before(0, 2) == 2


RISING = "validation was still rising when {}; a larger {} can find a better epoch"
STOPPED, ENDED = ("early stopping ended training", "--stopping_step"), ("training ended", "--epochs")


@pytest.mark.parametrize(
    ("scores", "best", "stopped", "expected"),
    [
        ([0.17, *(0.05 + epoch / 1000 for epoch in range(21))], 0, True, RISING.format(*STOPPED)),
        ([0.05 + epoch / 100 for epoch in range(11)], 10, False, RISING.format(*ENDED)),
        ([0.3] * 4 + [0.31] + [0.3] * 21, 4, True, "the best epoch is 4, among the first 5"),
        ([0.3] * 5 + [0.31] + [0.3] * 21, 5, True, None),
        ([0.1, 0.2, 0.3], 2, False, None),  # a trial of three epochs
        ([0.3 + epoch / 1e5 for epoch in range(23)], 22, False, None),  # as good as converged
    ],
)
def test_a_doubtful_best_epoch_is_named(
    scores: list[float], best: int, stopped: bool, expected: str | None
) -> None:
    for sign in (1, -1):
        signed = {epoch: sign * score for epoch, score in enumerate(scores)}
        found = doubts(signed, best, bigger=sign > 0, stopped=stopped)
        assert found is None if expected is None else (found or "").startswith(expected)


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
