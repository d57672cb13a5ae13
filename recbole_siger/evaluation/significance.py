"""Paired tests of two models on the same users, corrected for the number of tests.

The sample is the users. A model with several seeds enters with each user's mean over its seeds, so that each
user counts once. The seeds of one user are not independent: a test that counts them as separate
observations finds differences that do not exist. The result is about other users of the same data. The
standard deviation over seeds reports how much a result changes with the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

__all__ = ["STATS", "PairedResult", "compare_paired", "effect_size", "holm", "paired_p", "smallest_p"]

Values = np.ndarray[Any, np.dtype[np.float64]]
Stat = Literal["wilcoxon", "t-test"]

STATS: tuple[Stat, ...] = ("wilcoxon", "t-test")


@dataclass(frozen=True)
class PairedResult:
    """The difference of two models on one metric, first minus second.

    Attributes:
        n: Number of pairs.
        difference: Mean difference.
        low: Lower end of the bootstrap's confidence interval of the mean difference.
        high: Upper end of the interval.
        effect: Result of :func:`effect_size`.
        p: Two-sided p value, uncorrected.
    """

    n: int
    difference: float
    low: float
    high: float
    effect: float
    p: float


def compare_paired(
    first: Values, second: Values, stat: Stat = "wilcoxon", *, level: float = 0.95, seed: int = 0
) -> PairedResult:
    """Test whether two models differ, and estimate the difference.

    Args:
        first: Metric of one model, shape ``(n,)``.
        second: Metric of the other model, on the same users in the same order, shape ``(n,)``.
        stat: ``"wilcoxon"`` or ``"t-test"``.
        level: Level of the confidence interval, in (0, 1).
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the shapes differ, there is no pair, or a value is not finite.

    Example:
        >>> result = compare_paired(np.array([0.5, 1.0, 0.2]), np.array([0.5, 1.0, 0.2]))
        >>> result.p, result.difference, result.low, result.high
        (1.0, 0.0, 0.0, 0.0)
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"expected two vectors of one length, got shapes {first.shape} and {second.shape}")
    # Equal means over seeds may differ in rounding, if they are summed in another order.
    difference = np.round(first - second, 12)
    if not np.isfinite(difference).all():
        raise ValueError("values must be finite")
    low, high = bootstrap_interval(difference, level=level, seed=seed)
    return PairedResult(
        n=len(difference),
        difference=float(difference.mean()),
        low=low,
        high=high,
        effect=effect_size(difference, stat),
        p=paired_p(difference, stat),
    )


def paired_p(difference: Values, stat: Stat = "wilcoxon") -> float:
    """Return the two-sided p value of paired differences.

    ``"wilcoxon"``: the signed-rank test (Wilcoxon, 1945). Pairs without a difference are omitted, and ties
    share their mean rank. The test is exact for up to 50 pairs without ties, and in current versions of
    scipy for up to 13 pairs with ties; otherwise it uses the normal approximation. ``"t-test"``: Student's
    test of the mean. If all differences are 0, p is 1. If all differences are equal and not 0, the t-test
    gives p = 0.

    Args:
        difference: Shape ``(n,)``, finite.
        stat: Name of the test.

    Example:
        >>> paired_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))  # 2 of 2^6 signs are as extreme
        0.03125
    """
    if not difference.any():
        return 1.0
    if stat == "wilcoxon":
        return float(stats.wilcoxon(difference[difference != 0]).pvalue)
    if stat != "t-test":
        raise ValueError(f"stat must be one of {', '.join(STATS)}, got {stat!r}")
    if len(difference) < 2:
        return 1.0
    if np.ptp(difference) == 0:
        return 0.0
    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def smallest_p(n: int, stat: Stat = "wilcoxon") -> float:
    """Return the smallest p value that ``n`` pairs can give: 2^(1-n) by signed ranks.

    >>> smallest_p(5), smallest_p(6), smallest_p(1, "t-test"), smallest_p(2, "t-test")
    (0.0625, 0.03125, 1.0, 0.0)
    """
    if stat == "wilcoxon":
        return min(1.0, 2.0 ** (1 - n))
    return 1.0 if n < 2 else 0.0


def effect_size(difference: Values, stat: Stat = "wilcoxon") -> float:
    r"""Return the size of an effect in the measure that belongs to the test.

    For ``"wilcoxon"``: the matched-pairs rank-biserial correlation (Kerby, 2014), in [-1, 1]:

    .. math:: r = \frac{W^+ - W^-}{W^+ + W^-}

    over the ranks of the differences that are not 0. For ``"t-test"``: Cohen's :math:`d_z`, the mean divided
    by the standard deviation of the differences (denominator n - 1); infinite if all differences are equal
    and not 0. If all differences are 0, the effect is 0.

    Example:
        >>> effect_size(np.array([3.0, 2.0, -1.0, 0.0]))  # (3 + 2 - 1) / 6
        0.6666666666666666
    """
    if not difference.any():
        return 0.0
    if stat == "wilcoxon":
        moved = difference[difference != 0]
        ranks = stats.rankdata(np.abs(moved))
        return float((np.sign(moved) * ranks).sum() / ranks.sum())
    mean = float(difference.mean())
    if len(difference) < 2 or np.ptp(difference) == 0:
        return math.copysign(math.inf, mean)
    return mean / float(difference.std(ddof=1))


def bootstrap_interval(
    difference: Values, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap's confidence interval of the mean (Efron, 1979); pairs are resampled.

    Args:
        difference: Shape ``(n,)``.
        level: Level in (0, 1).
        n_resamples: Number of resampled means, >= 1.
        seed: Seed of the draws.

    Returns:
        The two ends; with a single difference, both ends equal the difference.

    Example:
        >>> bootstrap_interval(np.full(7, 0.25))
        (0.25, 0.25)
    """
    if len(difference) < 2 or np.ptp(difference) == 0:
        value = float(difference[0])
        return value, value
    rows = max(1, 4_000_000 // len(difference))  # 32 MB of draws at a time
    found = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=n_resamples,
        batch=rows,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_values: Values) -> Values:
    r"""Correct p values for the number of tests (Holm, 1979); the family-wise error rate is bounded.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    Args:
        p_values: Shape ``(m,)``, in any order, in [0, 1].

    Returns:
        Corrected values in the same order, shape ``(m,)``, in [0, 1].

    Example:
        >>> holm(np.array([0.04, 0.01, 0.03])).tolist()
        [0.06, 0.03, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
