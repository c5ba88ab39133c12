"""When one recipe is better than another: paired comparisons over seeds, and verdicts by a fixed rule.

Baseline and candidate share seeds, and with them initial weights, data order and noise; the unit is the difference of
their losses on a seed, candidate - baseline, in nats: negative is better. A test by Student's t decides, adjusted for
the declared comparisons by Holm (1979); an exact sign-flip test and a t that is wary of skew guard it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sweeper.confirmation.documents import Documents, Seen, Sums, by_arm
from sweeper.confirmation.paired_tests import (
    ALPHA,
    GUARD,
    PAIRS,
    ROUNDING,
    Array,
    Paired,
    Wary,
    detectable,
    holm,
    outlier,
    pairs_needed,
    sd_interval,
    sign_flip,
    t_tests,
    wary,
)
from sweeper.confirmation.scatter import Spread, mcnemar, spread
from sweeper.spec.hints import confidence

RACING_PAIRS = 4
FACTOR = 2.8  # standard errors that a mean must have to be shown at 5 % with 80 % power
LARGEST = 1e100  # nats: what is beyond has run away, and its square is to be a number still
MOST_NEEDED = 1_000_000  # pairs: beyond, nothing here settles it

Outcome = Literal["confirmed", "worse", "no worthwhile difference", "inconclusive", "dropped"]
Losses = Mapping[str, Mapping[int, float | None]]
Stuck = Mapping[str, Mapping[int, str]]
"""Arm -> seed of a run that was stuck -> how, in words that follow "2 runs", such as "stayed at word frequencies"."""

DOCUMENTS = "other documents could turn it"


@dataclass(frozen=True)
class Rule:
    """What a spec declares before the first run of a confirmation; worthwhile and margin in nats.

    worthwhile: the difference that would matter. margin: a candidate must beat the baseline by more than that.
    levels: of the declared looks, which together take alpha (looks.py); a single one takes all of it. Raises ValueError
    in one line.
    """

    worthwhile: float = 0.01
    margin: float = 0.0
    alpha: float = ALPHA
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.worthwhile < math.inf:
            raise ValueError(f"worthwhile: {self.worthwhile:g} is no difference in nats; give one above 0")
        if not 0 <= self.margin <= self.worthwhile:
            raise ValueError(f"margin: {self.margin:g} must lie between 0 and worthwhile, {self.worthwhile:g}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: {self.alpha:g} must lie between 0 and 1")

    def level(self, look: int) -> float:
        """The level of a family's look, from 1 on: after the declared ones, which share alpha, it is halved each time.

        So all looks together stay below 2 alpha. Half of that lies on the side of `confirmed`: the chance of any false
        one stays below alpha.
        """
        assert look >= 1, look
        declared = len(self.levels)
        return self.levels[look - 1] if look <= declared else self.alpha / 2 ** (look - max(1, declared))

    def words(self, comparisons: int, look: int = 1) -> list[str]:
        """The rule for people, in the order in which it is applied."""
        alpha, delta, beyond = self.level(look), self.worthwhile, f" by more than {self.margin:g}" * (self.margin > 0)
        return [
            f"confirmed: lower than the baseline{beyond}, two-sided paired t below {alpha:.4g} after Holm over "
            f"{comparisons} comparison{'s'[comparisons == 1 :]}, the same t corrected for skew of the differences "
            f"below {alpha:.4g}, and sign-flip test below {GUARD:g}",
            f"worse: the same, but higher{beyond}",
            f"no worthwhile difference: the {confidence(alpha)} % interval lies inside ±{delta:g} nats",
            f"inconclusive: all else, where the tests disagree, and below {PAIRS} pairs",
        ]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the baseline over the seeds that both completed. Nats; None where there are too few pairs.

    Safe to write as JSON by `dataclasses.asdict`. differences: by seed, as in `seeds`. interval: of the mean, at the
    level 1 - alpha of the look, unadjusted. p: two-sided t of the mean against the margin on its own side; adjusted: by
    Holm, what decides; flip: of the sign-flip test, unadjusted. second: as adjusted, of the t that is wary of skew;
    skew: what it goes by. detectable: the smallest mean that so many pairs at this sd show with 80 % power at Holm's
    first level. needed: pairs in all to detect the worthwhile difference at this sd at the next look; needed_range:
    over the sd's own 95 % interval; both of the inconclusive only, and not where one seed makes the sd. unpaired_sd: of
    a difference between runs on different seeds. outlier: a seed whose difference stands out. missing: seeds on which
    one of the two has not run. failed, baseline_failed: seeds on which it did not come to a loss. stuck,
    baseline_stuck: those of the seeds on which its run was stuck, None where that is not known; stuck_p: exact, that
    both arms are stuck alike. spread: how the two arms' runs scatter. documents: what other documents would give, where
    that is known. why: what made the verdict inconclusive whatever the tests over seeds say. notes: what a reader must
    know besides, a sentence each.
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
    second: float
    skew: float
    detectable: float | None
    needed: int | None
    needed_range: tuple[int, int] | None
    unpaired_sd: float | None
    correlation: float | None
    outlier: int | None
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    baseline_failed: tuple[int, ...]
    stuck: tuple[int, ...] | None
    baseline_stuck: tuple[int, ...] | None
    stuck_p: float | None
    spread: Spread | None
    documents: Documents | None
    why: str | None
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The verdict as it is shown."""
        if self.verdict == "dropped":
            return f"dropped after {self.n} pairs"
        return f"{self.verdict}: {self.why}" if self.why else self.verdict


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """A family's comparisons at one look, in the order of the arms. alpha: the level of this look."""

    baseline: str
    rule: Rule
    look: int
    alpha: float
    comparisons: tuple[Comparison, ...]


def verdicts(
    losses: Losses,
    baseline: str,
    rule: Rule | None = None,
    *,
    look: int = 1,
    dropped: Collection[str] = (),
    stuck: Stuck | None = None,
    documents: Sums | None = None,
) -> Verdicts:
    """Every other arm against the baseline.

    losses: arm -> seed -> loss in nats at the full length. All declared arms must be there, those without a run with an
    empty mapping: they count as comparisons. A seed that is absent has not run (or its machine broke), and is left out;
    None is a run that failed by its own doing (diverged): then what is left flatters the arm, and no verdict in the
    failed one's favour is given. look: 1, and 1 more for every `--more-seeds`. dropped: arms that racing gave up.
    stuck: runs that came to a loss but did not learn, which no mean may hide: a comparison with one on a seed of its
    pairs is inconclusive; None where the trainable does not tell. documents: what the losses are made of, as far as it
    is known: then the verdict must stand over seeds and documents together, too. Raises ValueError in one line on a
    loss that is not finite, and on an unknown arm.
    """
    rule = rule or Rule()
    _checked(losses, [baseline, *dropped])
    documents = documents or {}
    losses = _bounded(losses)
    arms = [arm for arm in losses if arm != baseline]
    if not arms:
        raise ValueError(f"nothing to compare with {baseline!r}: give a second arm")
    family = _Family(losses, baseline, rule, look, stuck)
    pairs = {arm: paired(losses[arm], losses[baseline]) for arm in arms}
    gone = np.array([arm in dropped for arm in arms])
    values = [np.array([*pairs[arm].values()], float) for arm in arms]
    tests = Paired.stacked(t_tests(differences, rule.margin, family.alpha) for differences in values)
    p = adjusted(tests, gone)
    flip = np.array([sign_flip(*each, rule.margin) for each in zip(values, tests.mean, strict=True)])
    second, skew = guarded(tests, gone)
    outcomes = decide(tests, p, second, flip, gone, rule, family.alpha).tolist()
    over = by_arm(
        {arm: _seen(tests.at(i), dropped=bool(gone[i])) for i, arm in enumerate(arms)},
        {arm: _both(documents.get(arm, {}), documents.get(baseline, {}), pairs[arm]) for arm in arms},
        rule.margin,
        family.alpha,
    )
    figures = np.stack([p, flip, second, skew], -1).tolist()
    decided = [_Decided(outcomes[i], tests.at(i), *figures[i], documents=over.get(arm)) for i, arm in enumerate(arms)]
    comparisons = [family.comparison(arm, pairs[arm], one) for arm, one in zip(arms, decided, strict=True)]
    return Verdicts(baseline=baseline, rule=rule, look=look, alpha=family.alpha, comparisons=tuple(comparisons))


def futile(losses: Losses, baseline: str, rule: Rule | None = None) -> list[str]:
    """The arms that racing gives up at a planned look: 4 pairs or more, and all of the interval above -margin.

    Nothing is confirmed at such a look, so it takes nothing from the level of those to come.
    """
    rule = rule or Rule()
    _checked(losses, [baseline])
    pairs = {arm: np.array([*paired(losses[arm], losses[baseline]).values()]) for arm in losses if arm != baseline}
    return [arm for arm, differences in pairs.items() if hopeless(differences, rule)]


def paired(candidate: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> dict[int, float]:
    """Seed -> difference in nats, by ascending seed. What differs by rounding is alike: 0, or one difference."""
    found: dict[int, float] = {}
    rounding = 0.0
    for seed in sorted(candidate.keys() & baseline.keys()):
        ours, theirs = candidate[seed], baseline[seed]
        if ours is not None and theirs is not None:
            here = ROUNDING * max(abs(ours), abs(theirs))
            found[seed] = 0.0 if abs(ours - theirs) <= here else ours - theirs
            rounding = max(rounding, here)
    if found and max(found.values()) - min(found.values()) <= rounding:
        return dict.fromkeys(found, next(iter(found.values())))
    return found


def adjusted(tests: Paired, dropped: Array | bool = False, by: Paired | Wary | None = None) -> Array:
    """Holm's p (..., k) on the side of each mean, by t or another test. A dropped arm stays among the k, with p 1."""
    by = by or tests
    return tests.on_its_side(*(holm(np.where(dropped, 1.0, p)) for p in (by.p_better, by.p_worse)))


def guarded(tests: Paired, dropped: Array | bool = False) -> tuple[Array, Array]:
    """As `adjusted`, by the test that is wary of skew; and the skew that it goes by."""
    found = wary(tests, dropped)
    return adjusted(tests, dropped, found), found.skew


def decide(
    tests: Paired, p: Array, second: Array, flip: Array, dropped: Array | bool, rule: Rule, alpha: float
) -> Array:
    """The outcomes (..., k) by the rule at a level.

    p: adjusted; second: `guarded`, at the same level; flip: counts only where p is below the level.
    """
    differs, doubted = p < alpha, (flip >= GUARD) | (second >= alpha)
    within = (tests.low > -rule.worthwhile) & (tests.high < rule.worthwhile)
    ruled: list[tuple[Array, Outcome]] = [
        (np.broadcast_to(dropped, p.shape), "dropped"),
        ((tests.n < PAIRS) | (differs & doubted), "inconclusive"),
        (differs & (tests.mean < 0), "confirmed"),
        (differs & (tests.mean > 0), "worse"),
        (within, "no worthwhile difference"),
    ]
    return np.select([where for where, _ in ruled], [outcome for _, outcome in ruled], "inconclusive")


def hopeless(differences: Array, rule: Rule) -> Array:
    """Whether racing gives up on (..., n) differences."""
    if differences.shape[-1] < RACING_PAIRS:
        return np.zeros(differences.shape[:-1], bool)
    return t_tests(differences, rule.margin, rule.alpha).low > -rule.margin


def _checked(losses: Losses, named: Iterable[str]) -> None:
    for name in named:
        if name not in losses:
            near = difflib.get_close_matches(name, losses, 1, 0) or ["none"]
            raise ValueError(f"{name!r} is no arm with losses; the nearest is {near[0]!r}")
    for arm, by in losses.items():
        for seed, loss in by.items():
            if loss is not None and not math.isfinite(loss):
                raise ValueError(f"arm {arm!r}, seed {seed}: the loss is {loss}; give None for a run that diverged")


def _bounded(losses: Losses) -> Losses:
    def within(loss: float | None) -> float | None:
        return None if loss is None else max(-LARGEST, min(LARGEST, loss))

    return {arm: {seed: within(loss) for seed, loss in by.items()} for arm, by in losses.items()}


@dataclass(frozen=True)
class _Decided:
    """What the family says of one arm."""

    outcome: Outcome
    test: Paired
    adjusted: float
    flip: float
    second: float
    skew: float
    documents: Documents | None


@dataclass(frozen=True)
class _Family:
    """What the comparisons of one look share."""

    losses: Losses
    baseline: str
    rule: Rule
    look: int
    stuck: Stuck | None

    @property
    def alpha(self) -> float:
        return self.rule.level(self.look)

    @property
    def size(self) -> int:
        return len(self.losses) - 1

    def comparison(self, arm: str, pairs: Mapping[int, float], decided: _Decided) -> Comparison:
        ours, theirs, test = self.losses[arm], self.losses[self.baseline], decided.test
        seeds, values, n = tuple(pairs), np.array([*pairs.values()], float), len(pairs)
        failed, baseline_failed = (tuple(sorted(s for s in by if by[s] is None)) for by in (ours, theirs))
        sd = float(test.sd) if n > 1 else None
        runs = [(ours[seed] or 0.0, theirs[seed] or 0.0) for seed in seeds]
        unpaired, correlation = _unpaired(runs)
        marked = outlier(values)
        outcome = _unflattered(decided.outcome, {*failed}, {*baseline_failed})
        stuck, baseline_stuck = self._stuck(arm, seeds), self._stuck(self.baseline, seeds)
        why = None if outcome == "dropped" else self._why(arm, outcome, stuck, baseline_stuck, decided.documents)
        found = Comparison(
            arm=arm,
            baseline=self.baseline,
            verdict="inconclusive" if why else outcome,
            n=n,
            seeds=seeds,
            differences=tuple(values.tolist()),
            mean=float(test.mean) if n else None,
            interval=(float(test.low), float(test.high)) if n > 1 else None,
            sd=sd,
            p=float(test.on_its_side(test.p_better, test.p_worse)) if n > 1 else None,
            adjusted=decided.adjusted,
            flip=decided.flip if n else None,
            second=decided.second,
            skew=decided.skew,
            detectable=None if sd is None else self.rule.margin + sd * detectable(n, self.size, alpha=self.alpha),
            needed=None,
            needed_range=None,
            unpaired_sd=unpaired,
            correlation=correlation,
            outlier=None if marked is None else seeds[marked],
            missing=tuple(sorted(ours.keys() ^ theirs.keys())),
            failed=failed,
            baseline_failed=baseline_failed,
            stuck=stuck,
            baseline_stuck=baseline_stuck,
            stuck_p=None if stuck is None or baseline_stuck is None else mcnemar(stuck, baseline_stuck),
            spread=spread(*np.array(runs).T) if n else None,
            documents=decided.documents,
            why=why,
            notes=(),
        )
        open_still = found.verdict == "inconclusive" and not why and marked is None
        if open_still and sd is not None and (needed := self._needed(sd)) < MOST_NEEDED:
            low, high = sd_interval(sd, n)
            found = replace(found, needed=needed, needed_range=(self._needed(low), self._needed(high)))
        return replace(found, notes=tuple(self._notes(found)))

    def _stuck(self, arm: str, seeds: Collection[int]) -> tuple[int, ...] | None:
        return None if self.stuck is None else tuple(seed for seed in seeds if seed in self.stuck.get(arm, {}))

    def _why(
        self,
        arm: str,
        outcome: Outcome,
        stuck: Collection[int] | None,
        baseline_stuck: Collection[int] | None,
        documents: Documents | None,
    ) -> str | None:
        """What stands in the way of a verdict besides the tests over seeds."""
        sides = [(name, found) for name, found in ((arm, stuck), (self.baseline, baseline_stuck)) if found]
        if sides and self.stuck:
            name, found = sides[0]
            runs = " and ".join(f"{len(found)} run{'s'[len(found) == 1 :]} of {name}" for name, found in sides)
            return f"{runs} {self.stuck[name][min(found)]}"
        if documents is None:
            return None
        unsure = outcome in ("confirmed", "worse") and documents.adjusted >= self.alpha
        wide = outcome == "no worthwhile difference" and max(map(abs, documents.combined)) >= self.rule.worthwhile
        return DOCUMENTS if unsure or wide else None

    def _needed(self, sd: float) -> int:
        effect = (self.rule.worthwhile - self.rule.margin) / sd if sd else math.inf
        if effect < 1 / math.sqrt(MOST_NEEDED):  # it takes more than (1 / effect)² pairs
            return MOST_NEEDED
        return min(MOST_NEEDED, pairs_needed(effect, self.size, self.rule.level(self.look + 1)))

    def _notes(self, found: Comparison) -> Iterator[str]:
        if found.verdict == "dropped":
            return
        if found.n < PAIRS:
            yield f"exploration only: a verdict takes {PAIRS} pairs, there are {found.n}"
        elif found.adjusted < self.alpha and (found.flip or 0) >= GUARD:
            yield f"the tests disagree: t {found.adjusted:.2g} after Holm, sign-flip {found.flip:.2g}"
        elif found.adjusted < self.alpha <= found.second:
            tail = "higher" if found.skew > 0 else "lower"
            yield (
                f"the tests disagree: t {found.adjusted:.2g} after Holm, {found.second:.2g} corrected for skew: the "
                f"arms' differences have a tail towards {tail} losses (skewness {found.skew:+.2g}), and a part of it "
                "that these seeds miss would undo the mean"
            )
        if found.sd == 0:
            yield "equal on every seed: a setting without effect?" if not found.mean else "the same on every seed"
        delta = self.rule.worthwhile
        if found.verdict in ("confirmed", "worse") and found.interval and max(map(abs, found.interval)) < delta:
            yield f"sure, and yet within what is not worthwhile, ±{delta:g} nats"
        if found.outlier is not None:
            needed = ", and an sd that it makes does not tell how many pairs are needed"
            yield (
                f"seed {found.outlier} stands out (Grubbs at 1 %): the tests assume symmetric differences"
                f"{needed * (found.verdict == 'inconclusive')}"
            )
        for name, seeds in ((found.arm, found.failed), (found.baseline, found.baseline_failed)):
            if seeds:
                yield f"{name} failed on {_listed(seeds)}: what is left flatters it"
        if found.missing:
            yield f"not run by both, so left out: {_listed(found.missing)}"
        if found.needed and found.documents and FACTOR * found.documents.error > delta - self.rule.margin:
            yield (
                f"no number of seeds shows {delta:g} nats on these documents: their own error is "
                f"{found.documents.error:.4f}; it takes more test text"
            )
        if found.why == DOCUMENTS and found.documents:
            low, high = found.documents.combined
            yield (
                f"{DOCUMENTS}: over seeds and documents together the interval is {low:+.4f} to {high:+.4f} and p "
                f"{found.documents.adjusted:.2g} after Holm; more test text would help where more seeds do not"
            )


def _seen(test: Paired, *, dropped: bool) -> Seen:
    p_better, p_worse = (1.0, 1.0) if dropped else (float(test.p_better), float(test.p_worse))
    return Seen(float(test.mean), float(test.sd), int(test.n), p_better, p_worse)


def _both(ours: Mapping[int, Array], theirs: Mapping[int, Array], seeds: Iterable[int]) -> list[tuple[Array, Array]]:
    """The sums of both arms on those of the seeds on which both are known."""
    return [(ours[seed], theirs[seed]) for seed in seeds if seed in ours and seed in theirs]


def _unflattered(outcome: Outcome, failed: set[int], baseline_failed: set[int]) -> Outcome:
    """Runs that failed alone could have been their side's worst: nothing is decided in its favour."""
    favoured = {"confirmed": failed - baseline_failed, "worse": baseline_failed - failed}
    return "inconclusive" if favoured.get(outcome, failed ^ baseline_failed) and outcome != "dropped" else outcome


def _unpaired(runs: list[tuple[float, float]]) -> tuple[float | None, float | None]:
    """The sd of a difference were the runs not on one seed, and the correlation that pairing uses, where defined."""
    if len(runs) < 2:
        return None, None
    (ours, both), (_, theirs) = np.cov(np.array(runs).T)
    correlation = float(both / math.sqrt(ours * theirs)) if ours > 0 and theirs > 0 else None
    return math.sqrt(ours + theirs), correlation


def _listed(seeds: Collection[int]) -> str:
    return f"seed{'s'[len(seeds) == 1 :]} {', '.join(map(str, seeds))}"
