"""Numbers do not move unless someone says so; how to write them again stands in ``regenerate.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_siger.registry import MODELS
from tests.regression.regenerate import GOLDEN, N_STEPS, golden_steps


def test_every_registered_model_has_golden_losses() -> None:
    assert set(json.loads(GOLDEN.read_text(encoding="utf-8"))) == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_the_golden_ones(tmp_path: Path, model: str) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[model]
    steps = golden_steps(model, tmp_path)
    assert len(expected) == N_STEPS
    for step, golden in zip(steps, expected, strict=True):
        assert step == pytest.approx(golden, rel=1e-5)
