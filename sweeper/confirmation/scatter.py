"""What is reported of two arms' runs besides their mean: whether they scatter alike, and how many were stuck."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import special

from sweeper.confirmation.paired_tests import ROUNDING, Array


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The sd over seeds of an arm's runs and of the baseline's, on the seeds that both have; nats.

    ratio: of the two, with its 95 % interval. p: of equal variances, two-sided, unadjusted. None if one is 0.
    """

    sd: float
    baseline: float
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


def spread(ours: Array, theirs: Array) -> Spread | None:
    """The spread of (n,) losses by seed, by Pitman (1939) and Morgan (1939); None below three pairs.

    The variances are equal if sum and difference do not correlate.
    """
    n = len(ours)
    if n < 3:
        return None
    a, b = float(ours.std(ddof=1)), float(theirs.std(ddof=1))
    if min(a, b) == 0:
        return Spread(sd=a, baseline=b)
    ratio, alone = a / b, max(ROUNDING, 1 - float(np.corrcoef(ours, theirs)[0, 1]) ** 2)
    t = abs(ratio - 1 / ratio) / 2 * math.sqrt((n - 2) / alone)
    k = 1 + 2 * alone * float(special.stdtrit(n - 2, 0.975)) ** 2 / (n - 2)
    away = math.sqrt(k * k - 1)
    interval = ratio * math.sqrt(k - away), ratio * math.sqrt(k + away)
    return Spread(sd=a, baseline=b, ratio=ratio, interval=interval, p=2 * float(special.stdtr(n - 2, -t)))


def mcnemar(ours: Collection[int], theirs: Collection[int]) -> float:
    """Exact two-sided p that both arms are equally likely to have the stuck run of a pair; by the seeds of stuck runs.

    Not Fisher's test, which takes runs as independent: runs of one seed share their start and their data. Pairs of
    which both are stuck, or neither, carry no information.
    """
    alone, other = len({*ours} - {*theirs}), len({*theirs} - {*ours})
    return min(1.0, 2 * float(special.bdtr(min(alone, other), alone + other, 0.5))) if alone + other else 1.0
