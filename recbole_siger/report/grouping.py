"""Runs that differ only in the seed belong together, under one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_siger.common.digests import canonical_digest
from recbole_siger.common.files import real_path
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.registry import short_names
from recbole_siger.report.comparison import Entry
from recbole_siger.runs.folder import RunFolder

__all__ = ["group_runs", "label_of", "labels_of", "open_runs"]


def open_runs(paths: Sequence[str]) -> list[RunFolder]:
    """Open run folders; a folder that is named twice, such as ``a`` and ``a/``, is one run."""
    named: dict[Path, str] = {}
    for path in paths:
        named.setdefault(real_path(path), path)
    return [RunFolder.open(path) for path in named.values()]


def label_of(key: str, configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Name a configuration by its model, and by the values that differ between runs of that model.

    >>> configs = {"a": {"model": "BPR", "lr": 1}, "b": {"model": "BPR", "lr": 2}, "c": {"model": "EASE"}}
    >>> label_of("a", configs), label_of("c", configs)
    ('BPR (lr=1)', 'EASE')
    """
    values = configs[key]
    others = [other for other in configs.values() if other["model"] == values["model"]]
    keys = sorted({name for other in others for name in other} - {"seed", "dataset", *NO_EFFECT})
    differing = [name for name in keys if any(other.get(name) != values.get(name) for other in others)]
    own = ", ".join(f"{name}={values.get(name)}" for name in differing)
    name = short_names(list({str(other["model"]): None for other in configs.values()}))[str(values["model"])]
    return f"{name} ({own})" if own else name


def labels_of(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name each configuration as :func:`label_of`; equal names, as on two datasets, get numbers.

    >>> labels_of({"a": {"model": "BPR", "dataset": "x"}, "b": {"model": "BPR", "dataset": "y"}})
    ['BPR', 'BPR #2']
    """
    labels: list[str] = []
    for key in configs:
        label = label_of(key, configs)
        n_twins = sum(label in (other, other.rpartition(" #")[0]) for other in labels)
        labels.append(f"{label} #{n_twins + 1}" if n_twins else label)  # the number 1 and the text "1"
    return labels


def group_runs(runs: Sequence[RunFolder]) -> list[Entry]:
    """Group runs by configuration without the seed and by features, in the order of the first run of each.

    Seeds of a row read the same features: a file of features can have changed between two runs. A run whose
    configuration has values that are not JSON, such as a date, is a group of its own.
    """
    groups: dict[str, list[RunFolder]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for run in runs:
        values = run.read_config()
        kept = {name: value for name, value in values.items() if name not in NO_EFFECT | {"seed"}}
        try:
            key = canonical_digest({**kept, "digests of features": _digests_of_features(run)})
        except (TypeError, ValueError, RecursionError):
            key = str(run.path)
        groups.setdefault(key, []).append(run)
        configs[key] = values
    named = zip(labels_of(configs), groups.values(), strict=True)
    return [Entry(label, tuple(group)) for label, group in named]


def _digests_of_features(run: RunFolder) -> dict[str, str]:
    if not run.file("digests.json").exists():
        return {}
    return {name: digest for name, digest in run.read_digests().items() if "features of " in name}
