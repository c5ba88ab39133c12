"""Paired of paired differences, and how many pairs they need. Arrays in, arrays out.

Arrays hold the pairs in their last axis and the arms of a family in the one before; anything may lead. The special
functions are SciPy's own behind `scipy.stats`, whose import alone takes a second.
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
PAIRS = 6  # with fewer, the sign-flip test cannot fall below 0.05: two-sided, 2 / 2^n
EXACT_PAIRS, FLIPS = 15, 20_000
ROUNDING = 1e-12  # of a loss: a smaller difference is two ways to add up one number
OUTLIER = 0.01

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Paired:
    """What Student's t says of differences, arrays of one shape; NaN where there are too few, p then 1.

    low, high: the interval of the mean. p_better: two-sided, of differences + margin against 0. p_worse: of
    differences - margin.
    """

    n: Array
    mean: Array
    sd: Array
    low: Array
    high: Array
    p_better: Array
    p_worse: Array

    @classmethod
    def stacked(cls, parts: Iterable[Paired]) -> Paired:
        """Arms of different numbers of pairs as one family, in the last axis."""
        return cls(*(np.stack(fields, -1) for fields in zip(*(vars(part).values() for part in parts), strict=True)))

    def at(self, index: int) -> Paired:
        return Paired(*(field[..., index] for field in vars(self).values()))


def t_tests(differences: Array, margin: float, alpha: float) -> Paired:
    """Of (..., n) differences, with intervals at 1 - alpha. Without any spread: p is 0, or 1 for a mean of 0."""
    n = differences.shape[-1]
    count = np.full(differences.shape[:-1], n)
    nothing, certain = np.full(count.shape, np.nan), np.ones(count.shape)
    if n < 2:
        mean = differences.mean(-1) if n else nothing
        return Paired(count, mean, nothing, nothing, nothing, certain, certain)
    mean, sd = differences.mean(-1), differences.std(-1, ddof=1)
    error = sd / math.sqrt(n)
    half = -special.stdtrit(n - 1, alpha / 2) * error
    p_better, p_worse = (_two_sided(mean + shift, error, n - 1) for shift in (margin, -margin))
    return Paired(count, mean, sd, mean - half, mean + half, p_better, p_worse)


def holm(p: Array) -> Array:
    """p values (..., k) adjusted for k comparisons by Holm (1979)."""
    order, k = np.argsort(p, -1), p.shape[-1]
    steps = np.take_along_axis(p, order, -1) * np.arange(k, 0, -1)
    found = np.empty_like(steps)
    np.put_along_axis(found, order, np.minimum(np.maximum.accumulate(steps, -1), 1.0), -1)
    return found


def sign_flip(differences: Array, mean: Array | float, margin: float = 0.0) -> Array:
    """Two-sided p of (..., n) differences whose sign is as good as its opposite, about the margin on the mean's side.

    All 2^n signs up to 15 pairs, else 20,000 random ones with a fixed seed, with the differences' own among them.
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
    return (extreme / signs.shape[1]).reshape(differences.shape[:-1])


def power(pairs: int, effect: float, comparisons: int, alpha: float = ALPHA) -> float:
    """Chance that a two-sided paired t at alpha / comparisons shows a mean of `effect` sd, by the noncentral t."""
    critical = -special.stdtrit(pairs - 1, alpha / comparisons / 2)
    return 1 - float(special.nctdtr(pairs - 1, effect * math.sqrt(pairs), critical))


def detectable(pairs: int, comparisons: int, wanted: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest mean of paired differences, in their sd, that a two-sided t test at alpha / comparisons shows.

    By the noncentral t distribution: 1.16, 1.45, 1.74, 1.93 for 8 pairs and 1, 3, 8, 15 comparisons. The sign-flip
    test beside it costs power where it is the stricter of the two: of the 80 %, 76 are left for 8 pairs and 61 for 6
    in a single comparison, 77 for 6 in three, 79 and more from 10 pairs on (simulated, normal).
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


def pairs_needed(effect: float, comparisons: int, alpha: float = ALPHA) -> int:
    """Pairs that show a mean of `effect` sd with 80 % power at alpha / comparisons; at least 6."""
    assert effect > 0, effect
    # The normal approximation lies below by 1 to 3 pairs, more at strict levels.
    normal = special.ndtri(POWER) - special.ndtri(alpha / comparisons / 2)
    pairs = max(PAIRS, math.floor((normal / effect) ** 2))
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
    sd = float(differences.std(ddof=1)) if n > 2 else 0.0
    if sd == 0:
        return None
    away = np.abs(differences - differences.mean())
    t = special.stdtrit(n - 2, 1 - OUTLIER / (2 * n))
    critical = (n - 1) / math.sqrt(n) * math.sqrt(t**2 / (n - 2 + t**2))
    return int(away.argmax()) if away.max() / sd > critical else None


def _two_sided(mean: Array, error: Array, freedom: int) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(freedom, -np.abs(mean / error))
    return np.where(np.isnan(p), 1.0, p)  # 0 / 0: nothing varies, nothing differs


@lru_cache
def _signs(n: int) -> Array:
    """(n, signs). The first difference keeps its sign: all signs turned give the same size of the sum."""
    if n <= EXACT_PAIRS:
        return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=n - 1)]).T
    signs = np.random.default_rng(0).choice((1.0, -1.0), (n, FLIPS + 1))
    signs[:, 0] = 1.0
    return signs
