"""Tests of paired differences, and how many pairs they need. Arrays in, arrays out.

Arrays hold the pairs in their last axis and the arms of a family in the one before; any axes may lead. The special
functions are those behind `scipy.stats`, whose import alone takes a second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

ALPHA = 0.05
POWER = 0.8
EXACT_PAIRS, FLIPS = 15, 20_000
ROUNDING = 1e-12  # of a loss: a smaller difference comes from adding up in another order
OUTLIER = 0.01
GUARD = 0.05  # the sign-flip test's own level, at every look and without adjustment
PAIRS = math.ceil(1 - math.log2(GUARD))  # 6: with fewer, the sign-flip test cannot fall below it (two-sided, 2 / 2^n)
SIMULATED, SIMULATED_ARMS, MOST_SIMULATED, SIGNS_MATTER = 3000, 4, 40, 9  # of `detectable`
# The correction for skew, see `wary`: its growth with the pairs, its most, and its least if several arms share it.
WARINESS, WARY_FROM, MOST_WARY, SHARED_WARY = 0.08, 5.5, 0.75, 0.5
WIDEST = 5.0  # times an arm's own sd: the most that the arms beside it count for

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Paired:
    """Student's t of differences, arrays of one shape; NaN if there are too few, with t 0 and p 1.

    Args:
        low: of the interval of the mean.
        high: of the interval of the mean.
        skew: mean third power over the 3/2nd of the mean square, 0 without spread.
        t_better: of differences + margin against 0; p_better: its two-sided p.
        t_worse: of differences - margin against 0; p_worse: its two-sided p.
    """

    n: Array
    mean: Array
    sd: Array
    low: Array
    high: Array
    skew: Array
    t_better: Array
    t_worse: Array
    p_better: Array
    p_worse: Array

    @classmethod
    def stacked(cls, parts: Iterable[Paired]) -> Paired:
        """Arms of different numbers of pairs as one family, in the last axis."""
        return cls(*(np.stack(fields, -1) for fields in zip(*(vars(part).values() for part in parts), strict=True)))

    def at(self, index: int) -> Paired:
        """One arm of the family, by its place in the last axis."""
        return Paired(*(field[..., index] for field in vars(self).values()))

    def on_its_side(self, better: Array, worse: Array) -> Array:
        """The p on the side of the mean; 1 if the mean is not beyond the margin."""
        beyond = np.where(self.mean < 0, self.t_better < 0, self.t_worse > 0)
        return np.where(beyond, np.where(self.mean < 0, better, worse), 1.0)


def t_tests(differences: Array, margin: float, alpha: float) -> Paired:
    """Student's t of (..., n) differences, intervals at 1 - alpha. Without spread t is infinite, or 0 for mean 0."""
    n = differences.shape[-1]
    count = np.full(differences.shape[:-1], n)
    nothing, none, certain = (np.full(count.shape, value) for value in (np.nan, 0.0, 1.0))
    if n < 2:
        mean = differences.mean(-1) if n else nothing
        return Paired(count, mean, nothing, nothing, nothing, none, none, none, certain, certain)
    alike = np.ptp(differences, -1) == 0  # to the bit: their computed mean may be another number
    mean = np.where(alike, differences[..., 0], differences.mean(-1))
    away = np.where(alike[..., None], 0.0, differences - mean[..., None])
    square = away * away
    sd = np.sqrt(square.sum(-1) / (n - 1))
    error = sd / math.sqrt(n)
    half = -special.stdtrit(n - 1, alpha / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.nan_to_num((square * away).mean(-1) / square.mean(-1) ** 1.5)
        t_better, t_worse = ((mean + shift) / error for shift in (margin, -margin))
    t_better, t_worse = (np.where(np.isnan(t), 0.0, t) for t in (t_better, t_worse))  # 0 / 0: nothing differs
    p_better = two_sided(t_better, count)
    p_worse = two_sided(t_worse, count) if margin else p_better
    return Paired(count, mean, sd, mean - half, mean + half, skew, t_better, t_worse, p_better, p_worse)


def two_sided(t: Array, n: Array) -> Array:
    """p of Student's t of n pairs; 1 for a t of 0, and for fewer than two pairs."""
    return np.where(n < 2, 1.0, 2 * special.stdtr(np.maximum(n - 1, 1), -np.abs(t)))


@dataclass(frozen=True)
class Wary:
    """Student's t corrected for skew; arrays of one shape.

    Args:
        skew: of the differences of all arms that stay, about their own means.
        size: the divisor of t if the tail lies on the losing side.
        p_better: as in `Paired`.
        p_worse: as in `Paired`.
    """

    skew: Array
    size: Array
    p_better: Array
    p_worse: Array


def wary(tests: Paired, left_out: Array | bool = False) -> Wary:
    """The second test of a family (..., k): t / (1 + w skew² r) if the tail lies on the losing side, else t.

    Few differences with a long tail mostly miss it: their mean lies on its other side, their sd is too small, and t
    confirms what has no effect. The tail that one arm misses shows in those beside it, so the skew is that of all arms
    that stay, each about its own mean and with its own spread, but none with more than 5 times the arm's; r is the
    pooled sd over the arm's. w grows by 0.08 a pair from 5.5 pairs on to 0.75 (with more pairs a skew is less often
    chance), and is 0.5 at least where arms share it.

    Form and constants are those that lower false verdicts most for the power they may cost, by simulation (`python -m
    tests.calibration`; n = 8 unless stated). If only the candidates have log-normal noise of three times the baseline's
    sd, t and signs confirm one falsely in 16 and 20 % of families of 3 and 8 arms, this test in 3.7 and 0.7 %; it costs
    1.5 and 1.7 points of power at 2 sd under normal noise, and 3.7 and 2.3 points where t has 80 %. Two arms: from 14
    to 5.8 %, 4.6 at 12 pairs. A single arm has no arm beside it: from 10 to 9.3 %, at 16 pairs from 10 to 6.5, for 1.4
    and 5.7 points where t has 77 and 80 %. If only the spread differs, t keeps its level, and no test of the spread is
    needed (3 times the baseline's sd: 2.3 %).

    Other tests by themselves, as false verdicts under that noise and power where this one has 76 %: Johnson (1978) 7.7
    and 70; Hall's transformation (1992) 8.0 and 71; bootstrap t 7.0 and 65; Yuen 7.8 and 68; signed rank 8.6 and 73.
    All make the same trade, and the last two test the typical seed, not the mean. The same correction above a threshold
    of the skew is no better.
    """
    wide = np.asarray(tests.sd > 0)
    kept = wide & (tests.n > 2) & ~np.broadcast_to(left_out, wide.shape)
    sd = np.where(wide, tests.sd, 1.0)
    with np.errstate(over="ignore"):
        beside = np.minimum(sd[..., None, :] / sd[..., :, None], WIDEST)
    share = kept[..., None, :] | np.eye(wide.shape[-1], dtype=bool)  # always the arm itself
    beside, number = np.where(share, beside, 0.0), share.sum(-1)
    square = (beside**2).sum(-1) / number
    skew = np.where(wide, (beside**3 * tests.skew[..., None, :]).sum(-1) / number / square**1.5, 0.0)
    weight = np.clip(WARINESS * (tests.n - WARY_FROM), np.where(number > 1, SHARED_WARY, 0.0), MOST_WARY)
    size = 1 + weight * skew**2 * np.sqrt(square)
    p = two_sided(np.where(skew > 0, tests.t_better, tests.t_worse) / size, tests.n)
    return Wary(skew, size, np.where(skew > 0, p, tests.p_better), np.where(skew < 0, p, tests.p_worse))


def holm(p: Array) -> Array:
    """p values (..., k) adjusted for k comparisons by Holm (1979).

    Step-down max-t over sign flips (Westfall and Young), which knows that arms share a baseline, has 1 to 4 points more
    power from 8 pairs on (9 to 18 fewer at 6), but spends the level that Holm leaves: with 3 skewed arms 4.2 % false
    verdicts over looks where Holm's are 2.6 and the gate is 3.6, and 6.4 % under a wide tail, where the gate is 5.
    """
    order, k = np.argsort(p, -1), p.shape[-1]
    steps = np.take_along_axis(p, order, -1) * np.arange(k, 0, -1)
    found = np.empty_like(steps)
    np.put_along_axis(found, order, np.minimum(np.maximum.accumulate(steps, -1), 1.0), -1)
    return found


def sign_flip(differences: Array, mean: Array | float, margin: float = 0.0) -> Array:
    """Two-sided p of (..., n) differences if either sign is equally likely, about the margin on the mean's side.

    1 for a mean that is not beyond the margin. All 2^n signs up to 15 pairs, else 20,000 random ones with a fixed seed,
    with the differences' own among them.
    """
    n = differences.shape[-1]
    if n == 0:
        return np.ones(differences.shape[:-1])
    shifted = differences + np.where(np.asarray(mean) < 0, margin, -margin)[..., None]
    signs, rows = _signs(n), shifted.reshape(-1, n)
    # The sum of the sizes bounds what addition in another order can change.
    least = np.abs(rows.sum(-1)) - ROUNDING * np.abs(rows).sum(-1)
    extreme = np.empty(len(rows), int)
    for start in range(0, len(rows), 256):
        part = slice(start, start + 256)
        extreme[part] = (np.abs(rows[part] @ signs) >= least[part, None]).sum(-1)
    beyond = np.abs(np.asarray(mean)) > margin if margin else True
    return np.where(beyond, (extreme / signs.shape[1]).reshape(differences.shape[:-1]), 1.0)


def power(pairs: int, effect: float, comparisons: int, alpha: float = ALPHA) -> float:
    """Chance that a two-sided paired t at alpha / comparisons shows a mean of `effect` sd, by the noncentral t."""
    critical = -special.stdtrit(pairs - 1, alpha / comparisons / 2)
    return 1 - float(special.nctdtr(pairs - 1, effect * math.sqrt(pairs), critical))


def t_detectable(pairs: int, comparisons: int, wanted: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest mean of paired differences, in their sd, that a two-sided t test at alpha / comparisons shows.

    By the noncentral t distribution: 1.16, 1.45, 1.74, 1.93 for 8 pairs and 1, 3, 8, 15 comparisons.
    """
    assert pairs > 1, pairs
    assert comparisons > 0, comparisons
    low, high = 0.0, 1.0
    while power(pairs, high, comparisons, alpha) < wanted:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(pairs, middle, comparisons, alpha) >= wanted else (middle, high)
    return high


def detectable(pairs: int, comparisons: int, wanted: float = POWER, alpha: float = ALPHA) -> float:
    """As `t_detectable`, with the sign-flip test and the test corrected for skew beside t, as a verdict needs all.

    Simulated with normal noise and a fixed seed, to 1 or 2 %. Above 40 pairs t alone, which is 1 to 2 % less.
    """
    if pairs > MOST_SIMULATED:
        return t_detectable(pairs, comparisons, wanted, alpha)
    assert pairs > 1, pairs
    assert comparisons > 0, comparisons
    mean, error, signs = _simulated(pairs, min(comparisons, SIMULATED_ARMS))
    critical = -special.stdtrit(pairs - 1, alpha / comparisons / 2)
    return float(np.quantile(np.maximum(mean + critical * error, signs), wanted))


@lru_cache(maxsize=256)
def _simulated(pairs: int, arms: int) -> tuple[Array, Array, Array]:
    """An arm's means, errors as `wary` sees them, and the effect that the sign-flip test needs; (draws,).

    A draw shows an effect from mean + critical t times the error on, if it is enough for the signs: they matter up to 9
    pairs, and below 6 there is no verdict that they could prevent.
    """
    runs = np.random.default_rng(0).standard_normal((SIMULATED, arms + 1, pairs))
    differences = (runs[:, 1:] - runs[:, :1]) / math.sqrt(2)
    tests = t_tests(differences, 0.0, ALPHA)
    found, one = wary(tests), tests.at(0)
    size = np.where(found.skew[:, 0] > 0, found.size[:, 0], 1.0)
    asked = _signs_ask(differences[:, 0]) if PAIRS <= pairs <= SIGNS_MATTER else np.full(SIMULATED, -np.inf)
    return one.mean, size * one.sd / math.sqrt(pairs), asked


def _signs_ask(differences: Array) -> Array:
    """The mean to subtract from each of (rows, n) differences before the sign-flip test falls below its level.

    Turning some signs makes the sum no smaller exactly if the mean of those turned reaches what was subtracted.
    """
    n = differences.shape[-1]
    subsets = np.array([*itertools.product((0.0, 1.0), repeat=n)][1:])
    means = differences @ (subsets / subsets.sum(-1, keepdims=True)).T
    allowed = math.ceil(GUARD * 2 ** (n - 1)) - 1
    return -np.partition(-means, allowed - 1, -1)[:, allowed - 1]


def pairs_needed(effect: float, comparisons: int, alpha: float = ALPHA) -> int:
    """Pairs for which a mean of `effect` sd is `detectable` at alpha / comparisons; at least 6."""
    assert effect > 0, effect
    # The normal approximation is 1 to 3 pairs too low, more at strict levels.
    normal = special.ndtri(POWER) - special.ndtri(alpha / comparisons / 2)
    pairs = max(PAIRS, math.floor((normal / effect) ** 2))
    while pairs <= MOST_SIMULATED and detectable(pairs, comparisons, POWER, alpha) > effect:
        pairs += 1
    while power(pairs, effect, comparisons, alpha) < POWER:
        pairs += 1
    return pairs


def sd_interval(sd: float, pairs: int, alpha: float = 0.05) -> tuple[float, float]:
    """The interval of an sd measured on normal differences: 0.66 to 2.04 times it for 8 pairs."""
    freedom = pairs - 1
    low, high = (sd * math.sqrt(freedom / special.chdtri(freedom, tail)) for tail in (alpha / 2, 1 - alpha / 2))
    return low, high


def outlier(differences: Array) -> int | None:
    """Index of the difference that stands out by the test of Grubbs (1969) at 1 %, or None."""
    n = len(differences)
    if n < 3 or np.ptp(differences) == 0:
        return None
    scaled = differences / np.abs(differences).max()
    sd, away = float(scaled.std(ddof=1)), np.abs(scaled - scaled.mean())
    t = special.stdtrit(n - 2, 1 - OUTLIER / (2 * n))
    critical = (n - 1) / math.sqrt(n) * math.sqrt(t**2 / (n - 2 + t**2))
    return int(away.argmax()) if away.max() / sd > critical else None


@lru_cache
def _signs(n: int) -> Array:
    """(n, signs). The first difference keeps its sign: all signs turned give the same size of the sum."""
    if n <= EXACT_PAIRS:
        return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=n - 1)]).T
    signs = np.random.default_rng(0).choice((1.0, -1.0), (n, FLIPS + 1))
    signs[:, 0] = 1.0
    return signs
