"""How the level of a test is divided among looks that were declared: spending functions and their boundaries.

Lan & DeMets (1983): of a level, so much is spent by a share of the pairs, and a look's boundary is what makes the
chance of a first crossing there equal to what is newly spent. The boundaries are exact for normal statistics; they are
used on the scale of p; tests/calibration_looks.py shows what Student's t makes of them. Both sides count, half each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import special

Spending = Literal["obrien_fleming", "pocock"]

POINTS = 801  # of the grid that carries the law of the statistic; 401 give the same five figures
WIDEST = 12.0  # sd of the statistic: beyond, a boundary is never reached

Array = np.ndarray[Any, Any]


def _obrien_fleming(level: float, share: float) -> float:
    """Little at first: the last look is nearly what a single one would be."""
    return float(4 * special.ndtr(special.ndtri(level / 4) / math.sqrt(share)))


def _pocock(level: float, share: float) -> float:
    """About as much at every look."""
    return level * math.log1p((math.e - 1) * share)


_SPENT: dict[Spending, Callable[[float, float], float]] = {"obrien_fleming": _obrien_fleming, "pocock": _pocock}


@lru_cache
def levels(looks: tuple[int, ...], spending: Spending, level: float, comparisons: int = 1) -> tuple[float, ...]:
    """Of each declared look, the level at which Holm tests its comparisons; two-sided.

    looks: pairs at each, ascending. level: of all of them together. The first of Holm's steps tests at a look's level /
    comparisons: those are the boundaries of level / comparisons. His later steps are then on the safe side, because
    the laxer the boundaries, the more the looks reject the same.
    """
    assert list(looks) == sorted({*looks}), looks
    shares = [pairs / looks[-1] for pairs in looks]
    spent = [_SPENT[spending](level / comparisons, share) for share in shares]
    return tuple(comparisons * nominal for nominal in _nominal(shares, np.diff([0.0, *spent]).tolist()))


def _nominal(shares: Sequence[float], spent: Sequence[float]) -> list[float]:
    """The two-sided p of each look's boundary, where so much is newly spent at each."""
    law, found = _Law(), list[float]()
    for share, new in zip(shares, spent, strict=True):
        law = law.at(share)
        low, high = 0.0, WIDEST
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if law.beyond(middle) > new else (low, middle)
        found.append(2 * float(special.ndtr(-high)))
        law = law.within(high)
    return found


class _Law:
    """The law of a Brownian motion's value at a share of the time, of those paths that crossed no boundary so far.

    values, weights: (points,) of the last look, before the first one a single 0; share_before: its share. A statistic
    is the value over the root of the share.
    """

    def __init__(
        self, values: Array | None = None, weights: Array | None = None, share_before: float = 0.0, share: float = 0.0
    ) -> None:
        self.values = np.zeros(1) if values is None else values
        self.weights = np.ones(1) if weights is None else weights
        self.share_before, self.share = share_before, share

    def at(self, share: float) -> _Law:
        return _Law(self.values, self.weights, self.share, share)

    def beyond(self, bound: float) -> float:
        """The chance of a statistic beyond ±bound now."""
        edge, sd = bound * math.sqrt(self.share), math.sqrt(self.share - self.share_before)
        tails = special.ndtr((self.values - edge) / sd) + special.ndtr((-self.values - edge) / sd)
        return float(self.weights @ tails)

    def within(self, bound: float) -> _Law:
        """Those that stay inside ±bound now, by Simpson's rule on a grid."""
        edge, sd = bound * math.sqrt(self.share), math.sqrt(self.share - self.share_before)
        values = np.linspace(-edge, edge, POINTS)
        rule = np.full(POINTS, 2.0)
        rule[1::2], rule[0], rule[-1] = 4.0, 1.0, 1.0
        density = np.exp(-(((values[:, None] - self.values) / sd) ** 2) / 2) @ self.weights
        scale = (values[1] - values[0]) / 3 / (sd * math.sqrt(2 * math.pi))
        return _Law(values, density * rule * scale, self.share, self.share)
