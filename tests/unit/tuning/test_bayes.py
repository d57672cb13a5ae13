"""Optuna names each point once."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")

from ray.tune.search import Searcher

from recbole_siger.tuning.bayes import Sampler
from recbole_siger.tuning.space import Range


def test_a_small_space_is_walked_through_once() -> None:
    space: dict[str, Any] = {"a": ["x", "y"], "b": Range(1, 3)}
    first, tried = [{"a": "y", "b": 3}], [{"a": "x", "b": 1}]
    sampler = Sampler(space, first, tried, "score", "max", seed=5)
    points = []
    for number in range(5):
        point = sampler.suggest(f"trial-{number}")
        assert isinstance(point, dict)
        points.append((point["a"], point["b"]))
        sampler.on_trial_result(f"trial-{number}", {"score": 0.1, "training_iteration": 1})
        sampler.on_trial_complete(f"trial-{number}", {"score": 0.1})
    assert points[0] == ("y", 3)
    assert set(points) == {("y", 3), ("y", 1), ("y", 2), ("x", 2), ("x", 3)}
    assert sampler.suggest("trial-5") == Searcher.FINISHED
