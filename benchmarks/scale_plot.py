"""The plot of benchmarks.scale: a training step against users, and nearest neighbours against items."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot"]

KNN = {"exact": ("exact", "o-"), "ann": ("approximate", "s--")}
STEPS = {"SIGER": "o-", "LightGCN": "s--"}


def plot(records: Sequence[Mapping[str, Any]], knn: Path | None, path: Path) -> None:
    """Draw time and memory against N, all axes logarithmic.

    Args:
        records: Measurements of :mod:`benchmarks.scale`.
        knn: JSON lines of :mod:`benchmarks.graphs`; the last line of each size is drawn.
        path: PNG to write.
    """
    try:
        import matplotlib
    except ImportError:
        sys.exit("--plot: matplotlib is missing; pip install 'recbole-siger[figures]'")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for (graph, (text, style)), place in zip(KNN.items(), range(2), strict=True):
        found = knn_curve(knn, graph) if knn else []
        for axis, name in zip(axes[0], ("cpu_seconds", "peak_mib"), strict=True):
            axis.plot(
                [r["n_items"] for r in found], [r[name] for r in found], style, label=text, color=f"C{place}"
            )
    for subject, style in STEPS.items():
        found = [r for r in records if r["subject"] == subject and "stages" in r]
        if not found:
            continue
        users = [r["n_users"] for r in found]
        axes[1, 0].plot(users, [r["stages"]["step"]["cpu_seconds"] for r in found], style, label=subject)
        for name in ("step", "model"):
            label = f"{subject}, {'steps' if name == 'step' else 'graphs'}"
            values = [r["stages"][name]["peak_mib"] for r in found]
            axes[1, 1].plot(users, values, style, label=label, alpha=1 if name == "step" else 0.45)
    titles = (
        ("neighbours, 384 wide: processor s", "neighbours: MiB above the inputs"),
        ("a training step: processor s", "peak of the process, MiB"),
    )
    for row, labels, x in zip(axes, titles, ("items", "users"), strict=True):
        for axis, label in zip(row, labels, strict=True):
            axis.set(xscale="log", yscale="log", xlabel=x, ylabel=label)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def knn_curve(file: Path, graph: str) -> list[Mapping[str, Any]]:
    """Read the last measurement of each number of items, 384 features near a subspace."""
    last: dict[int, Mapping[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one.get("graph") == graph and one.get("width") == 384 and "failed" not in one and not one["noise"]:
            last[one["n_items"]] = one
    return [last[n] for n in sorted(last)]
