"""Verdicts on the tasks of a confirmation: paired differences of scores by seed, secondary to the loss that decides.

The tests are those of the losses (verdicts.py), on scores turned round so that lower is better, in a family of its own:
Holm (1979) adjusts over all declared tasks and arms together. What is said here moves no verdict on the loss, and no
champion. There is no difference that would be worthwhile, as none is declared, so a task never shows "no difference".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweeper.confirmation.paired_tests import (
    GUARD,
    PAIRS,
    Array,
    Paired,
    Wary,
    detectable,
    sign_flip,
    t_tests,
    wary,
)
from sweeper.confirmation.verdicts import Losses, Stuck, adjusted, paired

TaskOutcome = Literal["better", "worse", "inconclusive", "dropped"]


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """An arm against the baseline on a task, over the seeds on which both have a score; positive is better.

    Safe to write as JSON by `dataclasses.asdict`. None if there are too few pairs.

    Args:
        metric: the task's score, such as zorro/accuracy.
        n: pairs.
        differences: by seed, as in `seeds`.
        interval: of the mean, at the level 1 - alpha of the look, unadjusted.
        p: two-sided paired t.
        adjusted: that p by Holm over all tasks and arms; it decides.
        flip: p of the sign-flip test, unadjusted.
        second: as adjusted, of the t corrected for skew.
        detectable: the smallest mean that n pairs at this sd show with 80 % power at Holm's first level.
        why: what made it inconclusive, if the tests alone would not have.
        alpha: the level of the look, at which it was tested.
    """

    metric: str
    arm: str
    alpha: float
    verdict: TaskOutcome
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
    detectable: float | None
    why: str | None


def task_verdicts(
    scores: Mapping[str, Losses],
    baseline: str,
    alpha: float,
    dropped: Collection[str] = (),
    stuck: Stuck | None = None,
) -> tuple[TaskComparison, ...]:
    """Every other arm against the baseline on every task, by task.

    Args:
        scores: metric -> arm -> seed -> score. All declared arms must be there for each: they count as comparisons. A
            seed that is absent has no score and is left out. None is a run that diverged: the rest then flatters its
            arm, so there is no verdict in that arm's favour.
        baseline: the arm that all others are compared with.
        alpha: the level of this look.
        dropped: arms that run no further; they stay among the comparisons.
        stuck: runs that did not learn: a comparison with one among its pairs is inconclusive.
    """
    arms = [arm for arm in next(iter(scores.values()), {}) if arm != baseline]
    if not arms:
        return ()
    pairs = [[_pairs(by[arm], by[baseline]) for arm in arms] for by in scores.values()]
    values = [[np.array([*one.values()], float) for one in row] for row in pairs]
    tests = _stacked([Paired.stacked(t_tests(each, 0.0, alpha) for each in row) for row in values])
    gone = np.broadcast_to([arm in dropped for arm in arms], tests.n.shape)
    second = wary(tests, gone)  # skew is shared by the arms of one task
    p, doubted = (_over_all(tests, gone, by) for by in (tests, second))
    flip = np.array([[sign_flip(each, each.mean() if len(each) else 0.0) for each in row] for row in values])
    found = list[TaskComparison]()
    for i, (metric, by) in enumerate(scores.items()):
        for j, arm in enumerate(arms):
            seeds, n, test = tuple(pairs[i][j]), len(values[i][j]), tests.at(j)
            mean, sd, low, high = (float(field[i]) for field in (test.mean, test.sd, test.low, test.high))
            tested = _Tested(n, mean, float(p[i, j]), float(flip[i, j]), float(doubted[i, j]), bool(gone[i, j]))
            outcome = tested.outcome(alpha)
            why = None if outcome == "dropped" else _why(outcome, arm, baseline, by, seeds, stuck)
            found.append(
                TaskComparison(
                    metric=metric,
                    arm=arm,
                    alpha=alpha,
                    verdict="inconclusive" if why else outcome,
                    n=n,
                    seeds=seeds,
                    differences=tuple((-values[i][j] + 0.0).tolist()),
                    mean=-mean + 0.0 if n else None,
                    interval=(-high + 0.0, -low + 0.0) if n > 1 else None,
                    sd=sd if n > 1 else None,
                    p=float(test.p_better[i]) if n > 1 else None,
                    adjusted=tested.p,
                    flip=tested.flip if n else None,
                    second=tested.second,
                    detectable=sd * detectable(n, p.size, alpha=alpha) if n > 1 else None,
                    why=why,
                )
            )
    return tuple(found)


@dataclass(frozen=True)
class _Tested:
    """The figures behind one outcome, of differences in which lower is better."""

    n: int
    mean: float
    p: float
    flip: float
    second: float
    dropped: bool

    def outcome(self, alpha: float) -> TaskOutcome:
        if self.dropped:
            return "dropped"
        shown = self.p < alpha and self.second < alpha and self.flip < GUARD and self.n >= PAIRS
        return ("better" if self.mean < 0 else "worse") if shown else "inconclusive"


def rule(tasks: int, arms: int, alpha: float) -> list[str]:
    """The rule for people."""
    of = f"{tasks} task{'s'[tasks == 1 :]} and {arms} arm{'s'[arms == 1 :]}"
    return [
        f"better or worse: two-sided paired t below {alpha:.4g} after Holm over {of}, the same t corrected for skew "
        f"below {alpha:.4g}, sign-flip test below {GUARD:g}, and {PAIRS} pairs or more; inconclusive: everything else, "
        "also with a stuck run among the pairs",
        "secondary: this family has a level of its own, and what it says moves neither the verdict on the loss nor the "
        "champion",
    ]


def _pairs(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> dict[int, float]:
    """Seed -> difference of the scores turned round: lower is better, as of losses."""
    turned = ({seed: None if score is None else -score for seed, score in by.items()} for by in (ours, theirs))
    return paired(*turned)


def _stacked(rows: list[Paired]) -> Paired:
    """Families of the same arms, in the first axis."""
    return Paired(*(np.stack(fields) for fields in zip(*(vars(row).values() for row in rows), strict=True)))


def _over_all(tests: Paired, gone: Array, by: Paired | Wary) -> Array:
    """Holm's p over all axes, in the shape of the tests."""
    flat: list[Any] = [type(one)(*(field.reshape(-1) for field in vars(one).values())) for one in (tests, by)]
    return adjusted(flat[0], gone.reshape(-1), flat[1]).reshape(gone.shape)


def _why(
    outcome: TaskOutcome, arm: str, baseline: str, by: Losses, seeds: Collection[int], stuck: Stuck | None
) -> str | None:
    """What leaves a comparison open whatever the tests say."""
    held = {name: [seed for seed in seeds if seed in (stuck or {}).get(name, {})] for name in (arm, baseline)}
    for name, found in held.items():
        if found and stuck:
            return f"{len(found)} run{'s'[len(found) == 1 :]} of {name} {stuck[name][min(found)]}"
    failed = {name: {seed for seed, score in by[name].items() if score is None} for name in (arm, baseline)}
    favoured = {"better": failed[arm] - failed[baseline], "worse": failed[baseline] - failed[arm]}.get(outcome)
    return "what is left flatters the side of the runs that failed" if favoured else None
