"""Tests of paired differences against SciPy's own, tables, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sweeper.confirmation.paired_tests import (
    GUARD,
    PAIRS,
    Paired,
    detectable,
    holm,
    outlier,
    pairs_needed,
    power,
    sd_interval,
    sign_flip,
    t_detectable,
    t_tests,
    wary,
)
from sweeper.spec.errors import SpecError
from tests.sweeper.samples import toy_spec


@pytest.mark.parametrize("n", [2, 6, 8, 24])
def test_t_and_its_interval_are_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(-0.3, 1, (4, 3, n))
    found = t_tests(differences, 0.2, 0.01)
    assert found.p_better == pytest.approx(stats.ttest_1samp(differences + 0.2, 0, axis=-1)[1])
    assert found.p_worse == pytest.approx(stats.ttest_1samp(differences - 0.2, 0, axis=-1)[1])
    interval = stats.ttest_1samp(differences, 0, axis=-1).confidence_interval(0.99)
    assert found.low == pytest.approx(interval.low)
    assert found.high == pytest.approx(interval.high)
    assert found.sd == pytest.approx(differences.std(-1, ddof=1))


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs_show_nothing(n: int) -> None:
    found = t_tests(np.full((3, n), -1.0), 0.0, 0.05)
    assert (found.p_better == 1).all()
    assert (found.p_worse == 1).all()
    assert np.isnan(found.sd).all()
    assert np.isnan(found.mean).all() == (n == 0)


def test_differences_that_do_not_vary() -> None:
    found = t_tests(np.array([[-0.5] * 8, [0.0] * 8, [0.1] * 8]), 0.0, 0.05)
    assert found.p_better.tolist() == [0.0, 1.0, 0.0]
    assert found.low.tolist() == found.high.tolist() == [-0.5, 0.0, 0.1]
    assert found.sd.tolist() == found.skew.tolist() == [0.0] * 3
    assert wary(found).p_better.tolist() == [0.0, 1.0, 0.0]


def test_the_skew_is_scipys() -> None:
    differences = np.random.default_rng(5).lognormal(0, 1, (4, 3, 9))
    assert t_tests(differences, 0.2, 0.01).skew == pytest.approx(stats.skew(differences, axis=-1))


def test_an_arm_alone_is_corrected_by_its_own_skew_on_the_losing_side_only() -> None:
    """By hand: eight pairs, weight 0.08 (8 - 5.5)."""
    differences = np.array([-3.0, -2.8, -2.6, -2.5, -2.5, -2.4, -2.2, 0.5])
    tests = t_tests(differences[None], 0.0, 0.05)
    t, skew = differences.mean() / stats.sem(differences), stats.skew(differences)
    assert skew > 1
    found = wary(tests)
    assert found.skew == pytest.approx(skew)
    assert found.p_better == pytest.approx(2 * stats.t.sf(abs(t) / (1 + 0.2 * skew**2), 7))
    other = wary(t_tests(-differences[None], 0.0, 0.05))
    assert other.p_worse == pytest.approx(found.p_better)
    helpful = np.array([[-3.0, -2.8, -2.6, -2.5, -2.5, -2.4, -2.2, -5.5]])
    assert wary(t_tests(helpful, 0.0, 0.05)).p_better == t_tests(helpful, 0.0, 0.05).p_better


def test_arms_share_their_skew_but_for_those_left_out() -> None:
    """By hand: the quiet arm is judged with the tail of the one beside it, which counts for 5 times its sd at most."""
    quiet, wide = np.array([-1.1, -1.0, -0.9, -1.0, -1.1, -0.9]), 100 * np.array([0.0, 0.1, -0.1, 0.2, -0.2, 3.0])
    tests = t_tests(np.stack([quiet, wide]), 0.0, 0.05)
    found, g = wary(tests), stats.skew(wide)
    square = (1 + 5**2) / 2
    skew = (stats.skew(quiet) + 5**3 * g) / 2 / square**1.5
    assert found.skew[0] == pytest.approx(skew)
    assert found.size[0] == pytest.approx(1 + 0.5 * skew**2 * math.sqrt(square))
    assert found.skew[1] == pytest.approx(g / 2 / 0.5**1.5, rel=1e-3)
    alone = wary(tests, np.array([False, True]))
    assert alone.skew[0] == pytest.approx(stats.skew(quiet), abs=1e-9)
    flat = wary(t_tests(np.stack([np.full(6, -1.0), wide]), 0.0, 0.05))
    assert (flat.skew[0], flat.p_better[0]) == (0.0, 0.0)


def test_a_mean_within_the_margin_is_nothing_on_its_side() -> None:
    differences = np.array([[-0.06, -0.05, -0.04, -0.05, -0.06, -0.04]])
    tests = t_tests(differences, 0.1, 0.05)
    assert tests.p_better < 1e-4  # that the mean is above -0.1
    assert tests.on_its_side(tests.p_better, tests.p_worse).tolist() == [1.0]
    assert sign_flip(differences, differences.mean(-1), 0.1).tolist() == [1.0]
    beyond = t_tests(differences - 0.2, 0.1, 0.05)
    assert beyond.on_its_side(beyond.p_better, beyond.p_worse) == beyond.p_better


def test_arms_of_different_numbers_of_pairs_form_a_family() -> None:
    parts = [t_tests(np.random.default_rng(n).normal(size=n), 0.0, 0.05) for n in (1, 6, 9)]
    family = Paired.stacked(parts)
    assert family.n.tolist() == [1, 6, 9]
    assert family.p_better[2] == parts[2].p_better == family.at(2).p_better


# The first is worked out by hand, the second as R's p.adjust(method="holm") gives it.
HOLM = [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205], [0.008, 0.056, 0.234, 0.234, 0.234, 0.234, 0.234, 0.234]),
    ([0.2], [0.2]),
    ([0.9, 0.6, 0.02], [1.0, 1.0, 0.06]),
    ([0.02, 0.02, 1.0], [0.06, 0.06, 1.0]),
]


@pytest.mark.parametrize(("p", "expected"), HOLM)
def test_holm(p: list[float], expected: list[float]) -> None:
    assert holm(np.array(p)) == pytest.approx(expected)
    assert holm(np.array([p[::-1], p])) == pytest.approx(np.array([expected[::-1], expected]))


@pytest.mark.parametrize("seed", range(50))
def test_sign_flips_are_scipys(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n, margin = int(draw.integers(2, 10)), 0.1 * (seed % 2)
    differences = draw.normal(draw.normal(), 1, n)
    if seed % 5 == 0:
        differences = np.round(differences)  # ties, and zeros
    mean = differences.mean()
    shifted = differences + (margin if mean < 0 else -margin)
    if abs(mean) <= margin:
        assert sign_flip(differences, mean, margin) == 1
        return
    if abs(mean) <= margin:
        assert sign_flip(differences, mean, margin) == 1
        return
    expected = stats.permutation_test(
        (shifted,), lambda x, axis: np.abs(x.sum(axis)), permutation_type="samples", alternative="greater",
        n_resamples=2**12, vectorized=True,
    )  # fmt: skip
    assert sign_flip(differences, mean, margin) == pytest.approx(expected.pvalue)


def test_sign_flips_over_leading_axes_are_those_one_by_one() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, (7, 50, 6))
    found = sign_flip(differences, differences.mean(-1), 0.1)
    alone = [[sign_flip(row, row.mean(), 0.1) for row in rows] for rows in differences]
    assert found == pytest.approx(np.array(alone))
    assert found.min() == 2 / 2**6


def test_random_sign_flips_are_near_the_exact_and_the_same_again() -> None:
    differences = np.random.default_rng(1).normal(0.4, 1, 16)
    exact = np.abs(np.array(np.meshgrid(*[[1, -1]] * 16)).reshape(16, -1).T @ differences) >= abs(differences.sum())
    found = sign_flip(differences, differences.mean())
    assert found == pytest.approx(exact.mean(), abs=0.01)
    assert found == sign_flip(differences, differences.mean())
    assert sign_flip(np.full(24, -1.0), -1.0) == 1 / 20_001


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_a_p_of_sign_flips_lies_between_its_least_and_one(values: list[float]) -> None:
    differences = np.array(values)
    assert 2 / 2 ** len(values) <= sign_flip(differences, differences.mean()) <= 1
    assert sign_flip(differences, differences.mean()) == sign_flip(-differences, -differences.mean())


@pytest.mark.parametrize(("comparisons", "effect"), [(1, 1.156), (3, 1.450), (8, 1.736), (15, 1.935)])
def test_what_t_alone_detects_at_eight_pairs(comparisons: int, effect: float) -> None:
    assert t_detectable(8, comparisons) == pytest.approx(effect, abs=0.0006)
    critical = stats.t.isf(0.05 / comparisons / 2, 7)
    assert stats.nct.sf(critical, 7, effect * math.sqrt(8)) == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize(("pairs", "comparisons"), [(6, 1), (8, 1), (8, 3), (12, 2)])
def test_the_detectable_difference_is_detected_four_times_in_five(pairs: int, comparisons: int) -> None:
    """By the verdict's own three tests, at Holm's first level."""
    runs = np.random.default_rng(9).standard_normal((10_000, comparisons + 1, pairs))
    differences = (runs[:, 1:] - runs[:, :1]) / math.sqrt(2)
    differences[:, 0] += detectable(pairs, comparisons)
    tests = t_tests(differences, 0.0, 0.05)
    shown = (tests.p_worse[:, 0] < 0.05 / comparisons) & (wary(tests).p_worse[:, 0] < 0.05 / comparisons)
    shown[shown] &= sign_flip(differences[shown, 0], tests.mean[shown, 0]) < 0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.015)


def test_signs_make_six_pairs_detect_much_less_than_t_would() -> None:
    assert t_detectable(6, 1) == pytest.approx(1.435, abs=0.001)
    assert detectable(6, 1) == pytest.approx(1.80, abs=0.02)
    assert detectable(8, 1) == pytest.approx(1.24, abs=0.02)
    assert detectable(50, 3) == t_detectable(50, 3)


def test_more_pairs_detect_less_and_more_comparisons_need_more() -> None:
    by_pairs = [detectable(pairs, 1) for pairs in (2, 3, 8, 16, 100)]
    assert by_pairs == sorted(by_pairs, reverse=True)
    assert detectable(2, 15) > detectable(2, 1)


@pytest.mark.parametrize("effect", [0.003, 0.1, 1.0, 1.3])
@pytest.mark.parametrize(("comparisons", "alpha"), [(1, 0.05), (3, 0.0125)])
def test_pairs_needed_are_the_fewest(effect: float, comparisons: int, alpha: float) -> None:
    pairs = pairs_needed(effect, comparisons, alpha)
    assert power(pairs, effect, comparisons, alpha) >= 0.8
    if pairs > 40:
        assert power(pairs - 1, effect, comparisons, alpha) < 0.8
    else:
        assert detectable(pairs, comparisons, 0.8, alpha) <= effect < detectable(pairs - 1, comparisons, 0.8, alpha)


def test_pairs_needed_are_six_at_least() -> None:
    assert pairs_needed(1e6, 1) == pairs_needed(math.inf, 3) == 6
    assert pairs_needed(1.3, 1) == 8


def test_the_interval_of_an_sd() -> None:
    assert sd_interval(1.0, 8) == pytest.approx((0.661, 2.035), abs=0.001)
    samples = np.random.default_rng(0).normal(0, 1, (20_000, 6)).std(-1, ddof=1)
    low, high = sd_interval(1.0, 6)
    assert np.mean((low * samples < 1) & (high * samples > 1)) == pytest.approx(0.95, abs=0.006)


def test_one_normal_sample_in_a_hundred_has_an_outlier() -> None:
    samples = np.random.default_rng(0).normal(0, 1, (20_000, 8))
    assert np.mean([outlier(row) is not None for row in samples]) == pytest.approx(0.01, abs=0.002)
    assert outlier(np.array([0.0, 0.1, -0.1, 0.05, -0.05, 3.0, 0.0, 0.1])) == 5
    assert outlier(np.zeros(8)) is None
    assert outlier(np.array([0.0, 9.0])) is None
    assert outlier(np.array([0.1] * 6)) is None  # whose computed sd is 1.5e-17
    assert outlier(np.array([0.1] * 6)) is None  # whose computed sd is 1.5e-17


def test_the_fewest_pairs_follow_from_the_level_of_the_signs_and_a_spec_asks_for_no_fewer() -> None:
    assert 2 / 2**PAIRS < GUARD < 2 / 2 ** (PAIRS - 1)
    assert (
        toy_spec(confirm={"until": "decided", "looks": [PAIRS, 8]}, seeds={"confirm": [*range(2, 10)]}).looks[0]
        == PAIRS
    )
    with pytest.raises(SpecError, match=f"greater than or equal to {PAIRS}"):
        toy_spec(confirm={"until": "decided", "looks": [PAIRS - 1, 8]}, seeds={"confirm": [*range(2, 10)]})
