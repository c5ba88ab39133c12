"""Verdicts by the fixed rule: each outcome, what stands in its way, and the family around it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from sweeper.confirmation.paired_tests import detectable, pairs_needed
from sweeper.confirmation.verdicts import Comparison, Rule, futile, hopeless, verdicts
from tests import calibration

SEEDS = range(101, 109)
NOISE = dict(zip(SEEDS, np.random.default_rng(3).normal(0, 0.02, 8).tolist(), strict=True))
# Mean 0 and sd 1 over eight seeds, no outlier.
SHAPE = np.array([-1.5, -1.0, -0.5, -0.2, 0.2, 0.5, 1.0, 1.5])
SHAPE = SHAPE / SHAPE.std(ddof=1)
BASE = {seed: 4.0 + noise for seed, noise in NOISE.items()}


def arm(mean: float, sd: float = 0.005, seeds: range = SEEDS) -> dict[int, float | None]:
    """Losses whose differences from the baseline have just this mean and sd."""
    return {seed: BASE[seed] + mean + sd * unit for seed, unit in zip(SEEDS, SHAPE, strict=True) if seed in seeds}


def one(mean: float, sd: float = 0.005, rule: Rule | None = None, **more: Any) -> Comparison:
    return verdicts({"base": BASE, "new": arm(mean, sd)}, "base", rule, **more).comparisons[0]


@pytest.mark.parametrize(
    ("mean", "sd", "verdict"),
    [
        (-0.02, 0.005, "confirmed"),
        (0.02, 0.005, "worse"),
        (0.001, 0.005, "no worthwhile difference"),
        (-0.001, 0.005, "no worthwhile difference"),
        (-0.005, 0.02, "inconclusive"),
        (0.005, 0.02, "inconclusive"),
        (0.006, 0.01, "inconclusive"),
        (-0.006, 0.01, "inconclusive"),
        (-0.004, 0.002, "confirmed"),
    ],
)
def test_each_verdict(mean: float, sd: float, verdict: str) -> None:
    found = one(mean, sd)
    assert found.verdict == found.label == verdict
    assert (found.mean, found.sd) == (pytest.approx(mean), pytest.approx(sd))


def test_the_figures_are_scipys() -> None:
    found = one(-0.004)
    test = scipy_stats.ttest_1samp(found.differences, 0)
    assert found.p == found.adjusted == pytest.approx(test[1])
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.seeds == tuple(SEEDS)
    assert found.detectable == pytest.approx(0.005 * detectable(8, 1))


def test_the_order_of_losses_makes_no_difference() -> None:
    turned = dict(reversed(arm(-0.02).items()))
    assert verdicts({"new": turned, "base": BASE}, "base").comparisons == (one(-0.02),)


def test_a_margin_must_be_beaten() -> None:
    assert one(-0.012, rule=Rule(margin=0.0)).verdict == "confirmed"
    found = one(-0.012, rule=Rule(margin=0.01))
    assert found.verdict == "inconclusive"
    shifted = np.array(found.differences) + 0.01
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(shifted, 0)[1])
    assert one(-0.02, rule=Rule(margin=0.01)).verdict == "confirmed"
    above = one(0.012, rule=Rule(margin=0.01))
    assert (above.verdict, above.adjusted) == ("inconclusive", above.p)
    assert one(0.02, rule=Rule(margin=0.01)).verdict == "worse"
    for mean in (-0.0005, 0.0005):
        near = one(mean, 0.001, rule=Rule(margin=0.005))
        assert (near.verdict, near.notes) == ("no worthwhile difference", ())
        assert near.detectable == pytest.approx(0.005 + 0.001 * detectable(8, 1))


def test_where_the_two_tests_disagree_nothing_is_said() -> None:
    """Sign flips see 4 of 64 sums as extreme, t sees 5 %: the case of one difference far on the other side."""
    differences = [-0.02, -0.02, -0.02, -0.02, -0.022, 0.003]
    new = {seed: BASE[seed] + d for seed, d in zip(SEEDS, differences, strict=False)}
    found = verdicts({"base": BASE, "new": new}, "base").comparisons[0]
    assert found.adjusted < 0.05 < (found.flip or 0)
    assert found.verdict == "inconclusive"
    assert any(note.startswith("the tests disagree: t 0.0") for note in found.notes)
    within = {seed: BASE[seed] + d + 0.02 for seed, d in zip(SEEDS, differences, strict=False)}
    found = verdicts({"base": BASE, "new": within}, "base", Rule(worthwhile=0.02, margin=0.02)).comparisons[0]
    assert found.p == found.adjusted == found.second == found.flip == 1
    assert not any("disagree" in note for note in found.notes)


def test_what_a_correction_for_skew_undoes_is_not_confirmed() -> None:
    """One seed far on the losing side, none an outlier by itself: t says 2 %, corrected 8 %; mirrored, not worse."""
    shape = [-0.02, -0.022, -0.018, -0.024, -0.016, -0.02, -0.021, 0.018]
    new = {seed: BASE[seed] + d for seed, d in zip(SEEDS, shape, strict=True)}
    found = verdicts({"base": BASE, "new": new}, "base").comparisons[0]
    t, skew = np.mean(shape) / scipy_stats.sem(shape), scipy_stats.skew(shape)
    assert found.skew == pytest.approx(skew)
    assert found.second == pytest.approx(2 * scipy_stats.t.sf(abs(t) / (1 + 0.2 * skew**2), 7))
    assert found.adjusted < 0.05 < found.second
    assert (found.flip or 1) < 0.05
    assert found.verdict == "inconclusive"
    assert any(f"{found.second:.2g} corrected for skew" in note and "higher losses" in note for note in found.notes)
    other = verdicts({"base": new, "new": BASE}, "base").comparisons[0]
    assert (other.verdict, other.second) == ("inconclusive", pytest.approx(found.second))
    assert any("lower losses" in note for note in other.notes)


def test_the_tail_of_an_arm_is_held_against_the_one_beside_it() -> None:
    tail = dict(zip(SEEDS, [-0.03, -0.02, -0.03, -0.01, -0.02, -0.03, 0.01, 0.2], strict=True))
    beside = {seed: BASE[seed] + d for seed, d in tail.items()}
    alone = verdicts({"base": BASE, "new": arm(-0.01, 0.007)}, "base").comparisons[0]
    found = verdicts({"base": BASE, "new": arm(-0.01, 0.007), "tail": beside}, "base").comparisons[0]
    assert alone.verdict == "confirmed"
    assert found.adjusted < 0.05 < found.second
    assert found.verdict == "inconclusive"
    dropped = verdicts({"base": BASE, "new": arm(-0.01, 0.007), "tail": beside}, "base", dropped=["tail"])
    assert dropped.comparisons[0].verdict == "confirmed"


def test_losses_without_bounds_give_numbers_all_the_same() -> None:
    powers = (0, -99, 155, -200, 250, -300, 306, -307)
    new = {seed: loss * math.copysign(10.0 ** abs(k), k) for (seed, loss), k in zip(BASE.items(), powers, strict=True)}
    found = verdicts({"base": BASE, "new": new}, "base").comparisons[0]
    assert (found.verdict, found.needed, found.needed_range) == ("inconclusive", None, None)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["n"] == 8


def test_constant_differences_have_no_outlier() -> None:
    """4.2 - 4.1 and 4.3 - 4.2 differ in the last bit."""
    base = {seed: 4.0 + 0.1 * i for i, seed in enumerate(SEEDS)}
    new = {seed: loss - 0.1 for seed, loss in base.items()}
    assert len({new[seed] - base[seed] for seed in SEEDS}) > 1
    found = verdicts({"base": base, "new": new}, "base").comparisons[0]
    assert (found.outlier, found.sd, found.verdict) == (None, 0.0, "confirmed")
    assert "the same on every seed" in found.notes


def test_within_the_margin_the_printed_p_is_not_that_of_the_other_side() -> None:
    found = one(-0.001, 0.001, rule=Rule(margin=0.005))
    assert (found.p, found.adjusted, found.verdict) == (1.0, 1.0, "no worthwhile difference")


def test_one_seed_that_makes_the_sd_tells_no_number_of_pairs() -> None:
    found = verdicts({"base": BASE, "new": arm(-0.02) | {105: BASE[105] - 1}}, "base").comparisons[0]
    assert (found.verdict, found.outlier, found.needed) == ("inconclusive", 105, None)
    assert any("does not tell how many pairs" in note for note in found.notes)


def test_sure_and_yet_small() -> None:
    assert one(-0.004, 0.002).notes == ("significant, but smaller than `worthwhile`, ±0.01 nats",)
    assert one(-0.02).notes == ()


@pytest.mark.parametrize("mean", [-0.5, 0.0])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_below_six_pairs_there_is_exploration_only(n: int, mean: float) -> None:
    new = arm(mean, 0.001, range(101, 101 + n))
    found = verdicts({"base": BASE, "new": new}, "base").comparisons[0]
    assert (found.verdict, found.n) == ("inconclusive", n)
    assert f"exploration only: a verdict takes 6 pairs, there are {n}" in found.notes
    assert (found.mean is None, found.interval is None, found.p is None) == (n < 1, n < 2, n < 2)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["n"] == n


def test_six_pairs_are_enough() -> None:
    new = arm(-0.05, 0.005, range(101, 107))
    assert verdicts({"base": BASE, "new": new}, "base").comparisons[0].verdict == "confirmed"


def test_differences_that_do_not_vary() -> None:
    twin = verdicts({"base": BASE, "twin": dict(BASE)}, "base").comparisons[0]
    assert (twin.verdict, twin.mean, twin.adjusted, twin.sd) == ("no worthwhile difference", 0.0, 1.0, 0.0)
    assert twin.notes == ("equal on every seed: a setting without effect?",)
    flat = dict.fromkeys(SEEDS, 4.0)
    lower = verdicts({"base": flat, "new": dict.fromkeys(SEEDS, 3.5)}, "base").comparisons[0]
    assert (lower.verdict, lower.sd, lower.correlation) == ("confirmed", 0.0, None)
    assert lower.notes == ("the same on every seed",)


def test_rounding_is_no_difference() -> None:
    new = {seed: math.nextafter(loss, 0) for seed, loss in BASE.items()}
    assert verdicts({"base": BASE, "new": new}, "base").comparisons[0].differences == (0.0,) * 8


def test_pairs_are_the_seeds_that_both_have() -> None:
    new = arm(-0.02, seeds=range(102, 109)) | {200: 3.9}
    found = verdicts({"base": BASE, "new": new}, "base").comparisons[0]
    assert (found.n, found.missing, found.verdict) == (7, (101, 200), "confirmed")
    assert found.notes == ("not run by both, so left out: seeds 101, 200",)


@pytest.mark.parametrize(
    ("mean", "mine", "theirs"),
    [
        (-0.02, "inconclusive", "confirmed"),
        (0.02, "worse", "inconclusive"),
        (0.0, "inconclusive", "inconclusive"),
    ],
)
def test_a_run_that_diverged_decides_nothing_in_its_own_favour(mean: float, mine: str, theirs: str) -> None:
    family = {"base": BASE, "new": arm(mean) | {104: None}}
    found = verdicts(family, "base").comparisons[0]
    assert (found.verdict, found.failed, found.n) == (mine, (104,), 7)
    assert "new failed on seed 104: what is left flatters it" in found.notes
    other = verdicts({"base": BASE | {104: None}, "new": arm(mean)}, "base").comparisons[0]
    assert (other.verdict, other.baseline_failed) == (theirs, (104,))
    both = verdicts({"base": BASE | {104: None}, "new": arm(mean) | {104: None}}, "base").comparisons[0]
    assert both.verdict == one(mean).verdict


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_none_is_refused(loss: float) -> None:
    with pytest.raises(ValueError, match=r"^arm 'new', seed 103: the loss is (nan|-?inf); give None for a run that"):
        verdicts({"base": BASE, "new": arm(0) | {103: loss}}, "base")
    with pytest.raises(ValueError, match="seed 103"):
        futile({"base": BASE, "new": arm(0) | {103: loss}}, "base")


def test_unknown_arms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no losses for arm 'bse'; the nearest is 'base'$"):
        verdicts({"base": BASE, "new": arm(0)}, "bse")
    with pytest.raises(ValueError, match=r"^no losses for arm 'nwe'"):
        verdicts({"base": BASE, "new": arm(0)}, "base", dropped=["nwe"])
    with pytest.raises(ValueError, match=r"^nothing to compare with 'base'"):
        verdicts({"base": BASE}, "base")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"worthwhile": 0.0}, "worthwhile"),
        ({"worthwhile": math.nan}, "worthwhile"),
        ({"margin": 0.02}, "margin"),
        ({"margin": -0.01}, "margin"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
def test_settings_of_a_rule_are_checked(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: [^\n]+$"):
        Rule(**settings)


def test_every_declared_arm_counts_as_a_comparison() -> None:
    few = verdicts({"base": BASE, "new": arm(-0.005)}, "base").comparisons[0]
    many = verdicts({"base": BASE, "new": arm(-0.005), "lost": {}, "null": arm(0.0)}, "base")
    assert few.verdict == "confirmed"
    assert many.comparisons[0].p == few.p
    assert many.comparisons[0].adjusted == pytest.approx(3 * (few.p or 1))
    assert many.comparisons[0].verdict == "no worthwhile difference"
    assert [found.arm for found in many.comparisons] == ["new", "lost", "null"]


def test_a_dropped_arm_counts_and_is_told() -> None:
    family = {"base": BASE, "new": arm(-0.005), "gone": arm(0.03, seeds=range(101, 105)) | {105: None}}
    found = verdicts(family, "base", dropped=["gone"])
    assert found.comparisons[0].adjusted == pytest.approx(2 * (found.comparisons[0].p or 1))
    gone = found.comparisons[1]
    assert (gone.verdict, gone.label, gone.adjusted) == ("dropped", "dropped after 4 pairs", 1.0)
    assert (gone.failed, gone.notes) == ((105,), ())


def test_racing_drops_what_cannot_win_and_nothing_else() -> None:
    def family(n: int) -> dict[str, dict[int, float | None]]:
        some = range(101, 101 + n)
        arms = {"bad": 0.05, "good": -0.05, "null": 0.0}
        return {"base": {**BASE}, **{name: arm(mean, seeds=some) for name, mean in arms.items()}, "none": {}}

    assert futile(family(3), "base") == []
    assert futile(family(4), "base") == ["bad"]
    assert futile(family(8), "base", Rule(margin=0.01)) == ["bad", "null"]


def test_a_further_look_is_stricter() -> None:
    levels = [Rule().level(look) for look in (1, 2, 3)]
    assert levels == [0.05, 0.025, 0.0125]
    assert sum(Rule().level(look) for look in range(1, 60)) / 2 <= 0.05
    first, second = one(-0.0046), one(-0.0046, look=2)
    assert (first.verdict, second.verdict) == ("confirmed", "no worthwhile difference")
    assert second.interval == pytest.approx(
        tuple(scipy_stats.ttest_1samp(second.differences, 0).confidence_interval(0.975))
    )
    assert verdicts({"base": BASE, "new": arm(0)}, "base", look=3).alpha == 0.0125


def test_what_the_inconclusive_need_follows_from_the_worthwhile_difference() -> None:
    found, wider = one(-0.005, 0.02), one(-0.001, 0.02)
    assert found.needed == wider.needed == pairs_needed(0.5, 1, 0.025)
    assert found.needed_range == tuple(pairs_needed(0.5 / factor, 1, 0.025) for factor in (0.6612, 2.0353))
    assert one(-0.02).needed is one(0.0).needed is None
    assert one(-0.005, 0.02, rule=Rule(margin=0.01)).needed is None


def test_pairing_saves_runs() -> None:
    found = one(-0.02)
    ours, theirs = [arm(-0.02)[seed] or 0 for seed in SEEDS], [BASE[seed] for seed in SEEDS]
    assert found.correlation == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert found.unpaired_sd == pytest.approx(math.sqrt(np.var(ours, ddof=1) + np.var(theirs, ddof=1)))
    assert found.sd == pytest.approx(0.005)
    assert (found.unpaired_sd or 0) > 0.005  # so that an unpaired comparison takes more runs


def test_an_outlier_is_marked() -> None:
    found = verdicts({"base": BASE, "new": arm(-0.02) | {105: BASE[105] + 1}}, "base").comparisons[0]
    assert found.outlier == 105
    assert found.notes[0].startswith("seed 105 stands out (Grubbs at 1 %): the tests assume symmetric differences")


def test_the_rule_in_words() -> None:
    words = Rule(margin=0.002).words(3, look=2)
    assert [line.partition(":")[0] for line in words] == [
        "confirmed", "worse", "no worthwhile difference", "inconclusive",
    ]  # fmt: skip
    assert "by more than 0.002, two-sided paired t below 0.025 after Holm over 3 comparisons" in words[0]
    assert "corrected for skew of the differences below 0.025" in words[0]
    assert "corrected for skew of the differences below 0.025" in words[0]
    assert "97.5 % interval lies inside ±0.01 nats" in words[2]


@given(st.integers(0, 10**6), st.integers(6, 9), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_calibration_judges_as_the_sweep_does(key: int, n: int, k: int, look: int) -> None:
    """Families around the border of the outcome, one of them with a dropped arm."""
    draw = np.random.default_rng(key)
    base, shift = draw.normal(4, 0.01, n), -0.01 * draw.random(k)
    runs = base + shift[:, None] + draw.normal(0, 0.006, (k, n))
    dropped = np.arange(k) == draw.integers(2 * k)
    losses = {"base": base, **{f"arm{i}": run for i, run in enumerate(runs)}}
    tree = {name: dict(enumerate(run.tolist())) for name, run in losses.items()}
    found = verdicts(tree, "base", look=look, dropped=[f"arm{i}" for i in range(k) if dropped[i]])
    judged = calibration.outcomes((runs - base)[None], dropped[None], look)[0]
    decided = ("confirmed", "worse", "dropped")
    assert [each in decided and each for each in judged.tolist()] == [
        each.verdict in decided and each.verdict for each in found.comparisons
    ]
    given_up = hopeless(runs - base, Rule())
    assert futile(tree, "base") == [f"arm{i}" for i in range(k) if given_up[i]]
