"""When one recipe is better than another: paired comparisons over seeds, and verdicts by a fixed rule.

Baseline and candidate share seeds, and with them initial weights, data order and noise; the unit is the difference of
their losses on a seed, candidate - baseline, in nats: negative is better. A test by Student's t decides, adjusted for
the declared comparisons by Holm (1979); an exact sign-flip test guards it. Arrays hold the seeds in their last axis and
the arms of a family in the one before; anything may lead. `verdicts` is what the sweep calls.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import special

POWER = 0.8
ALPHA = 0.05
GUARD = 0.05  # the sign-flip test's own level, at every look and without adjustment
PAIRS = 6  # with fewer, the sign-flip test cannot fall below its level: two-sided, 2 / 2^n
RACING_PAIRS = 4
EXACT_PAIRS, FLIPS = 15, 20_000
ROUNDING = 1e-12  # of a loss: a smaller difference is two ways to add up one number
OUTLIER = 0.01

Outcome = Literal["confirmed", "worse", "no worthwhile difference", "inconclusive", "dropped"]
Losses = Mapping[str, Mapping[int, float | None]]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rule:
    """What a spec declares before the first run of a confirmation; worthwhile and margin in nats.

    worthwhile: the difference that would matter. margin: a candidate must beat the baseline by more than that.
    Raises ValueError in one line.
    """

    worthwhile: float = 0.01
    margin: float = 0.0
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not 0 < self.worthwhile < math.inf:
            raise ValueError(f"worthwhile: {self.worthwhile:g} is no difference in nats; give one above 0")
        if not 0 <= self.margin <= self.worthwhile:
            raise ValueError(f"margin: {self.margin:g} must lie between 0 and worthwhile, {self.worthwhile:g}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: {self.alpha:g} must lie between 0 and 1")

    def level(self, look: int) -> float:
        """The level of a family's look, from 1 on: halved each time, so that all looks together stay below 2 alpha.

        Half of that lies on the side of `confirmed`: the chance of any false one stays below alpha.
        """
        assert look >= 1, look
        return self.alpha / 2 ** (look - 1)

    def words(self, comparisons: int, look: int = 1) -> list[str]:
        """The rule for people, in the order in which it is applied."""
        alpha, delta, beyond = self.level(look), self.worthwhile, f" by more than {self.margin:g}" * (self.margin > 0)
        return [
            f"confirmed: lower than the baseline{beyond}, two-sided paired t below {alpha:g} after Holm over "
            f"{comparisons} comparison{'s'[comparisons == 1 :]}, sign-flip test below {GUARD:g}",
            f"worse: the same, but higher{beyond}",
            f"no worthwhile difference: the {1 - alpha:.4g} interval lies inside ±{delta:g} nats",
            f"inconclusive: all else, where the two tests disagree, and below {PAIRS} pairs",
        ]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline over the seeds that both completed. Nats; None where there are too few pairs.

    Safe to write as JSON by `dataclasses.asdict`. differences: by seed, as in `seeds`. interval: of the mean, at the
    level 1 - alpha of the look, unadjusted. p: two-sided t of the mean against the margin on its own side; adjusted: by
    Holm, what decides; flip: of the sign-flip test, unadjusted. detectable: the smallest mean that so many pairs at
    this sd show with 80 % power at Holm's first level. needed: pairs in all to detect the worthwhile difference at
    this sd at the next look; needed_range: over the sd's own 95 % interval; both of the inconclusive only. unpaired_sd:
    of a difference between runs on different seeds. outlier: a seed whose difference stands out. missing: seeds on
    which one of the two has not run. failed, baseline_failed: seeds on which it did not come to a loss. notes: what a
    reader must know besides, a sentence each.
    """

    arm: str
    baseline: str
    verdict: Outcome
    n: int
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    sd: float | None
    p: float | None
    adjusted: float
    flip: float | None
    detectable: float | None
    needed: int | None
    needed_range: tuple[int, int] | None
    unpaired_sd: float | None
    correlation: float | None
    outlier: int | None
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    baseline_failed: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def told(self) -> str:
        """The verdict as it is shown."""
        return f"dropped after {self.n} pairs" if self.verdict == "dropped" else self.verdict

    @property
    def saved(self) -> float | None:
        """How many times the runs an unpaired comparison of the same precision would take."""
        return (self.unpaired_sd / self.sd) ** 2 if self.sd and self.unpaired_sd is not None else None


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A family's comparisons at one look, in the order of the arms. alpha: the level of this look."""

    baseline: str
    rule: Rule
    look: int
    alpha: float
    comparisons: tuple[Comparison, ...]

    @property
    def confirmed(self) -> list[Comparison]:
        """Those confirmed, the lowest mean first. Of several, the first one's estimate is optimistic."""
        found = [one for one in self.comparisons if one.verdict == "confirmed"]
        return sorted(found, key=lambda one: one.mean or 0.0)

    @property
    def champion(self) -> Comparison | None:
        return next(iter(self.confirmed), None)


def verdicts(
    losses: Losses, baseline: str, rule: Rule | None = None, *, look: int = 1, dropped: Collection[str] = ()
) -> Verdicts:
    """Every other arm against the baseline.

    losses: arm -> seed -> loss in nats at the full length. All declared arms must be there, those without a run with an
    empty mapping: they count as comparisons. A seed that is absent has not run (or its machine broke), and is left out;
    None is a run that failed by its own doing (diverged): then what is left flatters the arm, and no verdict in the
    failed one's favour is given. look: 1, and 1 more for every `--more-seeds`. dropped: arms that racing gave up.
    Raises ValueError in one line on a loss that is not finite, and on an unknown arm.
    """
    rule = rule or Rule()
    _checked(losses, [baseline, *dropped])
    arms = [arm for arm in losses if arm != baseline]
    if not arms:
        raise ValueError(f"nothing to compare with {baseline!r}: give a second arm")
    alpha = rule.level(look)
    pairs = {arm: paired(losses[arm], losses[baseline]) for arm in arms}
    gone = np.array([arm in dropped for arm in arms])
    tests = Tests.stacked(t_tests(np.array([*pairs[arm].values()]), rule.margin, alpha) for arm in arms)
    p = adjusted(tests, gone)
    flips = [
        sign_flip(np.array([*pairs[arm].values()]), tests.mean[i], rule.margin) if pairs[arm] else 1.0
        for i, arm in enumerate(arms)
    ]
    outcomes = decide(tests, p, np.array(flips), gone, rule)
    return Verdicts(
        baseline=baseline,
        rule=rule,
        look=look,
        alpha=alpha,
        comparisons=tuple(
            _comparison(arm, losses, baseline, pairs[arm], _Found(tests.at(i), float(p[i]), float(flips[i])),
                        outcomes[i], _Family(rule, look, len(arms)))
            for i, arm in enumerate(arms)
        ),
    )  # fmt: skip


def futile(losses: Losses, baseline: str, rule: Rule | None = None) -> list[str]:
    """The arms that racing gives up at a planned look: 4 pairs or more, and all of the interval above -margin.

    Nothing is confirmed at such a look, so it takes nothing from the level of those to come.
    """
    rule = rule or Rule()
    _checked(losses, [baseline])
    pairs = {arm: np.array([*paired(losses[arm], losses[baseline]).values()]) for arm in losses if arm != baseline}
    return [arm for arm, differences in pairs.items() if hopeless(differences, rule)]


def paired(candidate: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> dict[int, float]:
    """Seed -> difference in nats, by ascending seed; a difference within rounding is 0."""
    found: dict[int, float] = {}
    for seed in sorted(candidate.keys() & baseline.keys()):
        ours, theirs = candidate[seed], baseline[seed]
        if ours is not None and theirs is not None:
            found[seed] = 0.0 if abs(ours - theirs) <= ROUNDING * max(abs(ours), abs(theirs)) else ours - theirs
    return found


@dataclass(frozen=True)
class Tests:
    """What Student's t says of differences, arrays of one shape; NaN where there are too few, p then 1.

    p_better: two-sided, of differences + margin against 0. p_worse: of differences - margin. inner, outer: the
    interval's lower and upper end.
    """

    n: Array
    mean: Array
    sd: Array
    low: Array
    high: Array
    p_better: Array
    p_worse: Array

    @classmethod
    def stacked(cls, parts: Iterable[Tests]) -> Tests:
        """Arms of different numbers of pairs as one family, in the last axis."""
        return cls(*(np.stack(fields, -1) for fields in zip(*(vars(part).values() for part in parts), strict=True)))

    def at(self, index: int) -> Tests:
        return Tests(*(field[..., index] for field in vars(self).values()))


def t_tests(differences: Array, margin: float, alpha: float) -> Tests:
    """Of (..., n) differences, with intervals at 1 - alpha. Without any spread: p is 0, or 1 for a mean of 0."""
    n = differences.shape[-1]
    count = np.full(differences.shape[:-1], n)
    nothing, certain = np.full(count.shape, np.nan), np.ones(count.shape)
    if n < 2:
        mean = differences.mean(-1) if n else nothing
        return Tests(count, mean, nothing, nothing, nothing, certain, certain)
    mean, sd = differences.mean(-1), differences.std(-1, ddof=1)
    error = sd / math.sqrt(n)
    half = special.stdtrit(n - 1, 1 - alpha / 2) * error
    p_better, p_worse = (_two_sided(mean + shift, error, n - 1) for shift in (margin, -margin))
    return Tests(count, mean, sd, mean - half, mean + half, p_better, p_worse)


def holm(p: Array) -> Array:
    """p values (..., k) adjusted for k comparisons by Holm (1979)."""
    order, k = np.argsort(p, -1), p.shape[-1]
    steps = np.take_along_axis(p, order, -1) * np.arange(k, 0, -1)
    found = np.empty_like(steps)
    np.put_along_axis(found, order, np.minimum(np.maximum.accumulate(steps, -1), 1.0), -1)
    return found


def adjusted(tests: Tests, dropped: Array | bool = False) -> Array:
    """Holm's p (..., k) on the side of each mean. A dropped arm stays among the k, with p 1."""
    better, worse = (holm(np.where(dropped, 1.0, p)) for p in (tests.p_better, tests.p_worse))
    return np.where(tests.mean < 0, better, worse)


def sign_flip(differences: Array, mean: Array | float, margin: float = 0.0) -> Array:
    """Two-sided p of (..., n) differences whose sign is as good as its opposite, about the margin on the mean's side.

    All 2^n signs up to 15 pairs, else 20,000 random ones with a fixed seed, with the differences' own among them.
    """
    n = differences.shape[-1]
    assert n > 0
    shifted = differences + np.where(np.asarray(mean) < 0, margin, -margin)[..., None]
    signs, rows = _signs(n), shifted.reshape(-1, n)
    # The sum of the sizes bounds what addition in another order can change.
    least = np.abs(rows.sum(-1)) - ROUNDING * np.abs(rows).sum(-1)
    extreme = np.empty(len(rows), int)
    for start in range(0, len(rows), 256):
        part = slice(start, start + 256)
        extreme[part] = (np.abs(rows[part] @ signs) >= least[part, None]).sum(-1)
    return (extreme / signs.shape[1]).reshape(differences.shape[:-1])


def decide(tests: Tests, p: Array, flip: Array, dropped: Array | bool, rule: Rule) -> Array:
    """The outcomes (..., k), by the rule; p: adjusted, at the level of `tests`. The interval's level is that of p.

    flip: is looked at only where p is below that level.
    """
    raise_if = np.less  # placeholder
    del raise_if
    return np.array([])
