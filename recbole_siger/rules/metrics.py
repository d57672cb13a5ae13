"""Metrics of a configuration: their names in results, and which of them RecBole computes together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from recbole_siger.evaluation.metrics import USER_METRICS
from recbole_siger.options.params import did_you_mean

__all__ = ["direction_problem", "metric_names", "metric_problem"]

_OF_VALUES = ("auc", "logloss", "mae", "rmse")
"""RecBole's metrics of predicted values; the others rank items."""

_WHOLE = (*_OF_VALUES, "gauc")
"""RecBole's metrics without a cut-off."""


def metric_names(metrics: Iterable[str], topk: Iterable[int], *, sliced: bool = False) -> list[str]:
    """Return the names that metrics have in results.

    Args:
        metrics: Names of the metrics.
        topk: Cut-offs.
        sliced: Whether the metrics of users are also computed on cold and on warm pairs.

    >>> metric_names(["recall", "auc"], [5]), metric_names(["ndcg"], [5], sliced=True)
    (['recall@5', 'auc'], ['ndcg@5', 'ndcg@5[cold]', 'ndcg@5[warm]'])
    """
    found: dict[str, None] = {}
    cutoffs = [*topk]
    for metric in metrics:
        for k in cutoffs:
            name = metric if metric.lower() in _WHOLE else f"{metric}@{k}"
            parts = ("[cold]", "[warm]") if sliced and metric.lower() in USER_METRICS else ()
            found |= dict.fromkeys([name, *(f"{name}{part}" for part in parts)])
    return [*found]


def metric_problem(metrics: Any, modes: Any, known: Collection[str]) -> str | None:
    """Return what is wrong with the metrics of a run, with the fix; None for metrics that RecBole computes.

    Args:
        metrics: A metric or a list of metrics.
        modes: ``mode`` of ``eval_args``: a word, or a word each for validation and test.
        known: Names of RecBole's metrics, in lower case.

    >>> metric_problem(["Recal"], "full", ["recall"])
    'there is no metric Recal; did you mean `recall`?'
    """
    names = [metrics] if isinstance(metrics, str) else metrics
    for name in names:
        if name.lower() not in known:
            hint = did_you_mean(name, known) or f"; the metrics are {', '.join(known)}"
            if "," in name:
                hint = f"; write a list, as in [{', '.join(name.split(','))}]"
            elif "@" in name:
                hint = "; write the metric without its cut-off, and the cut-offs as topk"
            return f"there is no metric {name}{hint}"
    values = [name for name in names if name.lower() in _OF_VALUES]
    if values and len(values) < len(names):
        return f"{values[0]} is a metric of values and the others rank items; choose metrics of one kind"
    if values and "full" in (modes.values() if isinstance(modes, Mapping) else [modes]):
        return f"{values[0]} needs eval_args with mode: labeled; set it, or choose metrics such as Recall"
    return None


def direction_problem(
    layers: Sequence[tuple[str, Mapping[str, Any]]], metric: str, bigger: bool
) -> str | None:
    """Return what is wrong with a given ``valid_metric_bigger``, with source and fix; None if nothing is.

    RecBole decides by the metric and replaces any other value. A value beside a metric that a stronger source
    replaces is not reported, so that the ``config.yaml`` of a run can be used with another metric.

    Args:
        layers: Sources and their values, the weakest first.
        metric: The metric in effect.
        bigger: RecBole's value for this metric.
    """
    key = "valid_metric_bigger"
    for source, values in reversed(layers):
        if values.get(key, bigger) != bigger:
            return f"{source}: {key}={values[key]} has no effect with {metric}: RecBole decides; leave it out"
        if "valid_metric" in values:
            return None
    return None
