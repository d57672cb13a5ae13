"""Paired tests against enumeration, hand-made answers and slow twins."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recbole_siger.evaluation.significance import (
    STATS,
    Stat,
    bootstrap_interval,
    compare_paired,
    effect_size,
    holm,
    paired_p,
    smallest_p,
)


def draws(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.1, 1.0, size=n)


@pytest.mark.parametrize("stat", STATS)
def test_identical_predictions_give_p_1(stat: Stat) -> None:
    values = np.random.default_rng(1).random(97)
    result = compare_paired(values, values.copy(), stat)
    assert (result.p, result.difference, result.low, result.high, result.effect) == (1, 0, 0, 0, 0)
    assert result.n == 97


@pytest.mark.parametrize("stat", STATS)
def test_a_shifted_copy_is_significant(stat: Stat) -> None:
    values = np.random.default_rng(1).integers(0, 8, size=97) / 8  # sums are exact
    result = compare_paired(values + 0.25, values, stat)
    assert result.p < 1e-10
    assert result.difference == result.low == result.high == 0.25
    assert result.effect == (1.0 if stat == "wilcoxon" else np.inf)
    back = compare_paired(values, values + 0.25, stat)
    assert (back.p, back.difference, back.effect) == (result.p, -0.25, -result.effect)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_signed_ranks_by_enumeration(n: int) -> None:
    """The exact p value is the share of all 2^n signs whose rank sum is at least as far from its mean."""
    difference = draws(n)
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    observed = abs((ranks * np.sign(difference)).sum())
    sums = [abs(np.dot(ranks, signs)) for signs in product((-1, 1), repeat=n)]
    assert paired_p(difference) == pytest.approx(np.mean([s >= observed for s in sums]))
    assert min(np.mean([s >= max(sums) for s in sums]), 1) == smallest_p(n)


def test_pairs_without_a_difference_are_left_out() -> None:
    difference = draws(11)
    assert paired_p(np.concatenate([difference, np.zeros(5)])) == paired_p(difference)
    assert effect_size(np.concatenate([difference, np.zeros(5)])) == effect_size(difference)


def test_equal_means_summed_in_another_order_are_equal() -> None:
    first, second = (np.full(7, sum(values) / 3) for values in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]))
    assert (first != second).all()
    assert compare_paired(first, second).p == 1.0


def test_student_by_integration() -> None:
    """P(|T| >= t) of the t density, summed over a fine grid."""
    difference = draws(7)
    n = len(difference)
    mean = sum(difference) / n
    t = abs(mean) / np.sqrt(sum((d - mean) ** 2 for d in difference) / (n - 1) / n)
    grid = np.linspace(-t, t, 200_001)
    density = (1 + grid**2 / (n - 1)) ** (-n / 2)
    whole = np.linspace(-4000, 4000, 8_000_001)
    area = np.trapezoid((1 + whole**2 / (n - 1)) ** (-n / 2), whole)
    assert paired_p(difference, "t-test") == pytest.approx(1 - np.trapezoid(density, grid) / area, abs=1e-6)


def test_one_pair_proves_nothing() -> None:
    for stat in STATS:
        assert paired_p(np.array([0.5]), stat) == 1.0
    result = compare_paired(np.array([0.5]), np.array([0.25]))
    assert (result.low, result.difference, result.high) == (0.25, 0.25, 0.25)


def test_two_pairs_by_hand() -> None:
    """With one degree of freedom, p = 1 - 2 atan(|t|) / pi, and t of 1 and 2 is 3."""
    assert paired_p(np.array([1.0, 2.0]), "t-test") == pytest.approx(1 - 2 * np.arctan(3) / np.pi)
    assert effect_size(np.array([1.0, 2.0]), "t-test") == pytest.approx(1.5 * np.sqrt(2))
    assert smallest_p(2, "t-test") == 0.0
    assert smallest_p(2) == 0.5
    assert bootstrap_interval(np.array([1.0, 2.0])) == (1.0, 2.0)


def test_rank_biserial_by_pairs() -> None:
    """Walsh averages: the share above 0 less the share below it is the same number without ties."""
    difference = draws(13)
    walsh = [difference[i] + difference[j] for i in range(13) for j in range(i, 13)]
    assert effect_size(difference) == pytest.approx(np.mean(np.sign(walsh)))


def test_cohens_d_by_hand() -> None:
    assert effect_size(np.array([1.0, 2.0, 3.0]), "t-test") == pytest.approx(2.0)
    assert effect_size(np.array([-1.0, -2.0, -3.0]), "t-test") == pytest.approx(-2.0)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.02, 0.03, 0.04])).tolist() == [0.04, 0.06, 0.06, 0.06]
    assert holm(np.array([0.5, 0.001, 0.9])) == pytest.approx([1.0, 0.003, 1.0])
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    """Reject the smallest while p_(i) <= alpha / (m - i + 1); stop at the first that is not."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        p_values = rng.random(7) ** 3
        rejected = set()
        for step, index in enumerate(sorted(range(7), key=lambda i: p_values[i])):
            if p_values[index] > 0.05 / (7 - step):
                break
            rejected.add(index)
        assert set(np.flatnonzero(holm(p_values) <= 0.05)) == rejected


def test_the_bootstrap_by_a_loop() -> None:
    difference = draws(31)
    rng = np.random.default_rng(9)
    means = sorted(np.mean([difference[rng.integers(31)] for _ in range(31)]) for _ in range(2000))
    slow = np.percentile(means, [2.5, 97.5])
    assert bootstrap_interval(difference) == pytest.approx(slow, abs=0.05)
    error = difference.std() / np.sqrt(31)
    assert bootstrap_interval(difference)[1] - difference.mean() == pytest.approx(1.96 * error, rel=0.15)


def test_the_bootstrap_is_repeatable_whatever_its_blocks() -> None:
    difference = draws(5003)
    assert bootstrap_interval(difference) == bootstrap_interval(difference)
    assert bootstrap_interval(difference, seed=1) != bootstrap_interval(difference)
    wide, narrow = (bootstrap_interval(difference, level=level) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < difference.mean() < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [1.0], "shapes"),
        ([], [], "shapes"),
        ([[1.0]], [[1.0]], "shapes"),
        ([1.0, np.nan], [1.0, 2.0], "finite"),
    ],
)
def test_what_cannot_be_paired(first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(np.array(first), np.array(second))


def test_an_unknown_test() -> None:
    with pytest.raises(ValueError, match="wilcoxon, t-test"):
        paired_p(draws(7), "sign")  # type: ignore[arg-type]
