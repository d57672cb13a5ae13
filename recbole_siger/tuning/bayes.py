"""Points drawn by Optuna's sampler, without repetition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from recbole_siger.tuning.space import Point, Range, Space, point_id

__all__ = ["Sampler"]

_TRIES = 100


class Sampler(OptunaSearch):
    """Optuna's sampler, which draws again when a point repeats an earlier point.

    The id of a point names the trial's folder and row. The sampler ends the search after 100 draws without a
    new point.

    Args:
        space: Values to search.
        first: Points to begin with.
        tried: Points of ended trials, which are not drawn again.
        metric: Ray's name of the score.
        mode: ``max`` or ``min``.
        seed: Seed of the draws.
    """

    def __init__(
        self, space: Space, first: Sequence[Point], tried: Iterable[Point], metric: str, mode: str, seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            {key: _distribution(values) for key, values in space.items()},
            metric=metric,
            mode=mode,
            points_to_evaluate=list(first) or None,
            sampler=TPESampler(seed=seed),
        )
        self._named = {point_id(point, 0) for point in tried}
        self._asked: dict[str, str] = {}  # Ray's trial -> Optuna's name of the trial

    def suggest(self, trial_id: str) -> Any:
        """Return a new point, or ``FINISHED`` if no new point is found."""
        for number in range(_TRIES):
            asked = f"{trial_id}-{number}"
            point = super().suggest(asked)
            if point is None or (key := point_id(point, 0)) not in self._named:
                break
            super().on_trial_complete(asked, error=True)  # Optuna discards the repeated point
        else:
            return Searcher.FINISHED
        if point is not None:
            self._named.add(key)
            self._asked[trial_id] = asked
        return point

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch to Optuna."""
        super().on_trial_result(self._asked[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the end of a trial to Optuna."""
        super().on_trial_complete(self._asked[trial_id], result, error)


def _distribution(tried: list[Any] | Range) -> Any:
    if not isinstance(tried, Range):
        return CategoricalDistribution(tried)
    if tried.whole:
        return IntDistribution(int(tried.low), int(tried.high), log=tried.log)
    return FloatDistribution(tried.low, tried.high, log=tried.log)
