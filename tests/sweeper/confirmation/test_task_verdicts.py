"""Verdicts on tasks: known p, Holm over tasks and arms, the direction, and what leaves a comparison open."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sweeper.confirmation.task_verdicts import TaskComparison, rule, task_verdicts
from sweeper.confirmation.verdicts import Losses, verdicts

SEEDS = range(101, 109)
# Mean 0 and sd 1 over eight seeds, no outlier, nearly symmetric.
SHAPE = np.array([-1.5, -1.0, -0.5, -0.2, 0.2, 0.5, 1.0, 1.5])
SHAPE = SHAPE / SHAPE.std(ddof=1)
BASE: dict[int, float | None] = {seed: 0.6 + 0.01 * (seed % 3) for seed in SEEDS}


def arm(t: float, sd: float = 0.01, seeds: range = SEEDS) -> dict[int, float | None]:
    """Scores whose differences from the baseline have just this t, of eight pairs."""
    mean = t * sd / np.sqrt(8)
    return {s: (BASE[s] or 0) + mean + sd * unit for s, unit in zip(SEEDS, SHAPE, strict=True) if s in seeds}


def p_of(t: float) -> float:
    return float(2 * stats.t.sf(abs(t), 7))


def one(scores: Losses, **more: Any) -> TaskComparison:
    (found,) = task_verdicts({"zorro/accuracy": scores}, "base", 0.05, **more)
    return found


@pytest.mark.parametrize(("t", "verdict"), [(4.0, "better"), (-4.0, "worse"), (1.0, "inconclusive")])
def test_higher_is_better_and_the_figures_are_scipys(t: float, verdict: str) -> None:
    found = one({"base": BASE, "new": arm(t)})
    test: Any = stats.ttest_1samp(found.differences, 0)
    interval = test.confidence_interval(0.95)
    assert found.verdict == verdict
    assert found.seeds == tuple(SEEDS)
    assert found.differences == pytest.approx([(arm(t)[s] or 0) - (BASE[s] or 0) for s in SEEDS])
    assert found.mean == pytest.approx(np.mean(found.differences))
    assert np.sign(found.mean or 0) == np.sign(t)
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.sd == pytest.approx(0.01)
    assert found.p == found.adjusted == pytest.approx(p_of(t)) == pytest.approx(float(test.pvalue))


def slow_holm(p: list[float]) -> list[float]:
    """Holm's p, one after the other."""
    found, least = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        found[index] = least
    return found


def test_holm_adjusts_over_all_tasks_and_arms() -> None:
    given = {"a/accuracy": (4.0, 2.9), "b/spearman": (-6.0, 0.3), "c/f1": (2.5, -2.6)}
    scores = {
        task: {"base": BASE, "x": arm(first, 0.01), "y": arm(second, 0.003)} for task, (first, second) in given.items()
    }
    found = task_verdicts(scores, "base", 0.05)
    assert [(each.metric, each.arm) for each in found] == [(task, name) for task in given for name in ("x", "y")]
    by_hand = slow_holm([p_of(t) for pair in given.values() for t in pair])
    assert [each.adjusted for each in found] == pytest.approx(by_hand)
    assert [each.verdict for each in found] == ["better", "inconclusive", "worse", *["inconclusive"] * 3]
    alone = task_verdicts({"a/accuracy": {"base": BASE, "y": arm(2.9, 0.003)}}, "base", 0.05)[0]
    assert alone.verdict == "better", "by itself it would count: its p is 0.023"
    assert 0.02 < alone.adjusted < 0.05 < found[1].adjusted


def test_declared_comparisons_without_runs_still_count() -> None:
    scores = {"a/accuracy": {"base": BASE, "x": arm(2.9), "y": {}}, "b/accuracy": {"base": BASE, "x": {}, "y": {}}}
    found = task_verdicts(scores, "base", 0.05, dropped=["y"])
    assert found[0].adjusted == pytest.approx(4 * p_of(2.9))
    assert [each.verdict for each in found] == ["inconclusive", "dropped", "inconclusive", "dropped"]
    empty = found[2]
    assert (empty.n, empty.mean, empty.interval, empty.p, empty.flip, empty.adjusted) == (0, None, None, None, None, 1)
    json.dumps([asdict(each) for each in found], allow_nan=False)


@pytest.mark.parametrize("t", [3.0, -2.0])
def test_a_task_alone_is_tested_as_a_loss_would_be(t: float) -> None:
    """The same figures as the rule for losses, of the scores turned round."""
    skewed = {s: (score or 0) + 0.01 * (s == 105) for s, score in arm(t).items()}
    turned = {s: -score for s, score in skewed.items()}
    base = {s: -(score or 0) for s, score in BASE.items()}
    ours = one({"base": BASE, "new": skewed})
    theirs = verdicts({"base": base, "new": turned}, "base").comparisons[0]
    assert (ours.adjusted, ours.flip, ours.second) == (theirs.adjusted, theirs.flip, theirs.second)
    assert ours.mean == -(theirs.mean or 0)
    assert ours.detectable == theirs.detectable
    assert {"confirmed": "better", "no worthwhile difference": "inconclusive"}.get(
        theirs.verdict, theirs.verdict
    ) == ours.verdict


def test_too_few_pairs_stuck_runs_and_runs_that_failed_decide_nothing() -> None:
    few = one({"base": BASE, "new": arm(9.0, seeds=range(101, 106))})
    assert (few.n, few.verdict, few.adjusted < 0.05) == (5, "inconclusive", True)
    scores: Losses = {"base": BASE, "new": arm(6.0)}
    held = one(scores, stuck={"new": {103: "stayed at word frequencies"}})
    assert (held.verdict, held.why) == ("inconclusive", "1 run of new stayed at word frequencies")
    other = one(scores, stuck={"base": {103: "stayed there", 104: "stayed there"}})
    assert other.why == "2 runs of base stayed there"
    assert one(scores, stuck={"new": {999: "stayed there"}}).verdict == "better"
    lost = one({"base": BASE, "new": arm(6.0) | {101: None}})
    assert (lost.n, lost.verdict) == (7, "inconclusive")
    assert lost.why == "what is left flatters the side of the runs that failed"
    assert one({"base": BASE | {101: None}, "new": arm(6.0)}).verdict == "better", "it flatters the baseline"
    assert one({"base": BASE | {101: None}, "new": arm(-6.0)}).verdict == "inconclusive"


def test_equal_scores_on_every_seed_differ_by_nothing() -> None:
    same = one({"base": BASE, "new": dict(BASE)})
    assert (same.mean, same.sd, same.adjusted, same.verdict) == (0, 0, 1, "inconclusive")
    assert str(same.mean) == "0.0"
    assert same.interval == (0, 0)


def test_few_families_without_an_effect_show_one() -> None:
    """3 tasks and 2 arms that share a baseline, scores in steps of 1 / 200: fewer than 5 % of families say anything."""
    draws, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        level = draws.normal(0.6, 0.03, (3, 1, 8))
        scores = np.round(200 * (level + draws.normal(0, 0.02, (3, 3, 8)))) / 200
        by_task: dict[str, Losses] = {
            f"task{i}/accuracy": {
                name: dict(zip(SEEDS, map(float, row), strict=True))
                for name, row in zip(("base", "x", "y"), rows, strict=True)
            }
            for i, rows in enumerate(scores)
        }
        wrong += any(each.verdict in ("better", "worse") for each in task_verdicts(by_task, "base", 0.05))
    assert wrong / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert wrong > 0


def test_the_rule_names_its_family() -> None:
    first, second = rule(3, 2, 0.05)
    assert "below 0.05 after Holm over 3 tasks and 2 arms" in first
    assert second.startswith("secondary: this family has a level of its own")
    assert "1 task and 1 arm," in rule(1, 1, 0.05)[0]
