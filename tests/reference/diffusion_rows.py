"""The diffusion of DiffMM as loops in NumPy float64, in the whole space of items, apart from the package."""

from __future__ import annotations

from math import cos, sin, sqrt, tanh
from typing import Any

import numpy as np

Array = np.ndarray


def schedule(n_steps: int, low: float, high: float) -> list[dict[str, float]]:
    """Beta, alpha-bar, weight and the two factors of each step."""
    variance = [low + (high - low) * t / max(n_steps - 1, 1) for t in range(n_steps)]
    steps: list[dict[str, float]] = []
    kept_before, ratio_before = 1.0, 0.0
    for t in range(n_steps):
        beta = 1e-4 if t == 0 else 1 - (1 - variance[t]) / (1 - variance[t - 1])
        kept = kept_before * (1 - beta)
        ratio = kept / (1 - kept)
        steps.append(
            {
                "kept": kept,
                "weight": 1.0 if t == 0 else ratio_before - ratio,
                "from_clean": beta * sqrt(kept_before) / (1 - kept),
                "from_noisy": (1 - kept_before) * sqrt(1 - beta) / (1 - kept),
            }
        )
        kept_before, ratio_before = kept, ratio
    return steps


def weights(denoiser: Any) -> dict[str, Array]:
    return {name: p.detach().double().numpy() for name, p in denoiser.named_parameters()}


def denoised(w: dict[str, Array], x: Array, t: int) -> Array:
    """One row of items without the padding, ``(I - 1,)`` to ``(I - 1,)``."""
    angles = [t * 10000 ** (-j / 5) for j in range(5)]
    embedded = np.array([*map(cos, angles), *map(sin, angles)])
    embedded = np.array([sum(row * embedded) for row in w["time_weight"]]) + w["time_bias"]
    joined = np.concatenate((x, embedded))
    first = np.concatenate((w["inner"][1:], w["inner_time"]))
    hidden = [tanh(sum(joined * first[:, h]) + w["inner_bias"][h]) for h in range(first.shape[1])]
    outer, bias = w["outer"], w["outer_bias"]
    return np.array([sum(outer[i] * hidden) + bias[i] for i in range(1, len(outer))])


def restored(w: dict[str, Array], x: Array, steps: list[dict[str, float]]) -> Array:
    """From x_T = x to x_0, by the means of the posterior."""
    for t in reversed(range(len(steps))):
        x = steps[t]["from_clean"] * denoised(w, x, t) + steps[t]["from_noisy"] * x
    return x


def loss(
    w: dict[str, Array],
    rows: Array,
    draws: tuple[Array, Array, Array],
    steps: list[dict[str, float]],
    tables: tuple[Array, Array],
    options: Any,
) -> float:
    """L_m; rows ``(B, I - 1)``, draws are steps, noise and what dropout keeps, tables are F_m and E_i."""
    total = 0.0
    for x, t, noise, kept in zip(rows, *draws, strict=True):
        signal = steps[t]["kept"]
        noisy = (sqrt(signal) * x + sqrt(1 - signal) * noise) * kept / (1 - options.denoise_dropout)
        found = denoised(w, noisy, t)
        error = sum((found - x) ** 2) / len(x)
        content, ids = (
            sum(value * row for value, row in zip(v, table[1:], strict=True))
            for v, table in zip((found, x), tables, strict=True)
        )
        gap = sum((content - ids) ** 2) / len(ids)
        total += steps[t]["weight"] * error + options.denoise_align_weight * gap
    return total / len(rows)
