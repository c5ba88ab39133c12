"""The plan: what is counted, how cost follows from it, and what a confirmation could detect."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper import closing
from sweeper.journal.journal import Journal
from sweeper.plan import estimate as planning
from sweeper.plan.estimate import Plan, above_limits, estimated, shown
from sweeper.plan.seed_noise import Spread
from sweeper.report.sections import Outcome
from sweeper.spec.load import load, resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Pace

MIX = Path(__file__).parents[3] / "search_spaces" / "mix_ratios.yaml"
RATE = 80e9


def plan(spec: SweepSpec, room: int, rate: float, **more: Any) -> Plan:
    return planning.plan(spec, room, estimated(spec, rate), **more)


def mix(*sets: str, profile: str = "laptop") -> SweepSpec:
    """Without its confirmation."""
    return load(MIX, profile, ["seeds.confirm=[]", *sets])


def arms(**changes: Any) -> SweepSpec:
    tree = {
        "name": "arms",
        "trainable": "trainables.toy:train",
        "arms": {name: {"x": x} for name, x in (("base", 0.5), ("low", 0.1), ("high", 0.9))},
        "search": {"method": "arms"},
        "seeds": {"search": [1, 2, 3, 4, 5, 6, 7, 8]},
    }
    return resolve({**tree, **changes})


def test_trials_steps_and_tokens_are_counted() -> None:
    estimate = plan(mix(), 2, RATE)
    assert (estimate.trials, estimate.concurrency) == (8, 2)
    assert estimate.steps == 1200
    assert estimate.tokens == 8 * 1200 * 32 * 32
    settings = mix().settings({})
    assert estimate.flops == pytest.approx(8 * (1200 * settings.flops_per_step + settings.validation_flops))
    assert plan(arms(), 2, RATE).trials == 24


def test_hours_follow_from_rate_room_and_length() -> None:
    base = plan(mix(), 1, RATE)
    seconds = base.hours * 3600 - planning.SWEEP_START
    assert seconds == pytest.approx(8 * 1200 * base.seconds_per_step, rel=0.1)
    assert plan(mix(), 2, RATE).hours * 3600 - planning.SWEEP_START == pytest.approx(seconds / 2)
    assert plan(mix(), 8, RATE).hours * 3600 - planning.SWEEP_START == pytest.approx(seconds / 8)
    assert plan(mix(), 64, RATE).concurrency == 8
    assert plan(mix("resources.concurrency=3"), 64, RATE).concurrency == 3
    assert plan(mix("config.steps=2400"), 1, RATE).hours > 1.8 * base.hours
    assert plan(mix(), 1, 2 * RATE).hours < base.hours


def test_a_trial_pays_for_its_validations_and_a_group_for_its_start() -> None:
    often = plan(mix("config.report_every=50"), 1, RATE)
    assert often.flops > plan(mix(), 1, RATE).flops
    assert often.hours > plan(mix(), 1, RATE).hours
    group = plan(mix("resources.workers=1"), 1, RATE).hours - plan(mix(), 1, RATE).hours
    assert group * 3600 / 8 == pytest.approx(10, abs=0.2)


def test_more_processors_and_workers_make_a_step_shorter() -> None:
    one = plan(mix("resources.workers=1"), 1, RATE).seconds_per_step
    assert plan(mix("resources.workers=2"), 1, RATE).seconds_per_step == pytest.approx(one / 2)
    assert one / 2 < plan(mix("resources.cpus_per_worker=2"), 1, RATE).seconds_per_step < one


def test_the_measured_shapes_are_estimated_within_a_fifth() -> None:
    """Seconds of processor time on one thread of a machine with 90 GFLOP/s, measured for these three shapes."""
    small = "config.model={hidden: 128, intermediate: 512}"
    shapes = {
        ("data.tokenizer=train:8192", small, "config.batch_size=32", "data.block=64"): 64.3 / 300,
        ("data.tokenizer=train:2048", small, "config.batch_size=32", "data.block=64"): 61.2 / 360,
        ("config.batch_size=64", "config.model.dropout=0.1"): 54.4 / 800,
        (): 45.6 / 1200,
    }
    for sets, seconds in shapes.items():
        assert plan(mix(*sets), 1, 90e9).seconds_per_step == pytest.approx(seconds, rel=0.2)


def test_a_gpu_is_planned_at_an_assumed_rate_that_is_named() -> None:
    estimate = plan(mix(profile="published"), 1, RATE)
    assert estimate.gpu_hours == pytest.approx(estimate.hours, rel=0.01)
    assert any("RTX A6000" in note for note in estimate.assumed)
    assert estimate.seconds_per_step == plan(mix(profile="published"), 1, 2 * RATE).seconds_per_step
    half = plan(mix("resources.gpus_per_worker=0.5", profile="published"), 2, RATE)
    assert half.seconds_per_step == pytest.approx(2 * estimate.seconds_per_step)
    assert half.gpu_hours == pytest.approx(estimate.gpu_hours, rel=0.05)
    assert plan(mix(), 1, RATE).gpu_hours == 0
    assert not any("GPU" in note for note in plan(mix(), 1, RATE).assumed)


def test_the_dearest_corner_of_the_space_counts() -> None:
    spec = resolve(
        {
            "name": "lengths",
            "trainable": "trainables.toy:train",
            "space": {"steps": {"randint": [10, 70]}},
            "search": {"method": "random", "trials": 3},
        }
    )
    assert plan(spec, 1, RATE).steps == 70


def test_disk_is_two_checkpoints_and_a_bundle_a_trial() -> None:
    size = mix(profile="published").settings({}).checkpoint_bytes
    assert plan(mix(profile="published"), 1, RATE).disk_gb == pytest.approx(24 * size * (2 + 1 / 3) / 1e9)


def test_the_confirmation_is_planned_from_its_seeds() -> None:
    eight = mix("seeds.confirm=[1001, 2, 3, 4, 5, 6, 7, 8]", "confirm.best=1", "confirm.sd=null")
    estimate = plan(eight, 1, RATE)
    assert (estimate.pairs, estimate.comparisons, estimate.sd, estimate.sd_source) == (8, 1, 0.02, "assumed")
    assert estimate.detectable == pytest.approx(0.02 * 1.24, rel=0.02)
    known = plan(eight, 1, RATE, sd=Spread(0.01, "earlier runs"))
    assert (known.detectable, known.sd_source) == (pytest.approx(0.01 * 1.24, rel=0.02), "earlier runs")
    said = eight.model_copy(update={"confirm": eight.confirm.model_copy(update={"sd": 0.03})})
    assert [
        (one.sd, one.sd_source) for one in (plan(said, 1, RATE), plan(said, 1, RATE, sd=Spread(0.01, "earlier")))
    ] == [
        (0.03, "as the spec has it"),
        (0.01, "earlier"),
    ]
    assert said.spec_hash != eight.spec_hash
    assert not any("sd" in note for note in known.assumed)
    assert plan(mix("seeds.confirm=[7]"), 1, RATE).detectable is None
    assert plan(arms(seeds={"search": [1], "confirm": [2, 3]}), 1, RATE).comparisons == 2


def test_the_looks_are_planned_from_the_first_to_the_last() -> None:
    spec = mix("seeds.confirm=[11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]", "confirm={until: decided, best: 3}")
    estimate = plan(spec, 2, RATE)
    first, last = estimate.looks
    assert (first.pairs, first.runs, last.pairs, last.runs) == (8, 32, 12, 48)
    assert first.alpha < last.alpha < 0.05
    assert first.detectable > last.detectable == estimate.detectable
    assert (estimate.confirming, estimate.pairs) == (48, 12)
    lines = shown(spec, estimate)
    text = "\n".join(lines)
    assert "32 to 48 to confirm (the best 3 and the baseline on 8 to 12 fresh seeds, until all is decided)" in text
    assert f"look 1      8 pairs, at most 32 runs so far, at a level of {first.alpha:.2g}: shows" in text
    assert any(line.startswith("  in all      at most ") for line in lines)
    assert "at the last look, confirmed: lower than the baseline" in text
    assert plan(mix("seeds.confirm=[11, 12, 13, 14]"), 2, RATE).looks == []


def test_the_confirmation_costs_its_runs_and_says_its_rule() -> None:
    plain, spec = plan(mix(), 2, RATE), mix("seeds.confirm=[11, 12, 13, 14]")
    estimate = plan(spec, 2, RATE)
    assert (estimate.trials, estimate.confirming) == (8, 8)
    assert estimate.tokens == 2 * plain.tokens
    seconds = plain.hours * 3600 - planning.SWEEP_START
    assert estimate.hours * 3600 - planning.SWEEP_START == pytest.approx(2 * seconds)
    text = "\n".join(shown(spec, estimate))
    assert "8 to search, 8 to confirm (the best 1 and the baseline on 4 fresh seeds); 2 at a time" in text
    assert "confirmed: lower than the baseline, two-sided paired t below 0.05" in text
    assert "exploration only: a verdict takes 6 pairs of seeds, there are 4" in text
    assert "pairs of seeds cannot detect confirm.worthwhile" in text
    assert "cannot detect" not in "\n".join(shown(spec, plan(spec, 2, RATE, sd=Spread(0.001, "earlier runs"))))


def test_a_plan_is_plain_json() -> None:
    assert Plan(**json.loads(json.dumps(asdict(plan(mix(), 2, RATE)), allow_nan=False))).trials == 8


@pytest.mark.parametrize(("room", "rate"), [(0, RATE), (1, 0.0), (1, math.inf), (1, math.nan)])
def test_what_cannot_be_planned(room: int, rate: float) -> None:
    with pytest.raises(ValueError, match="cannot plan with"):
        plan(mix(), room, rate)


def test_limits() -> None:
    estimate = plan(mix(profile="published"), 1, RATE)
    assert not above_limits(mix(profile="published"), estimate)
    assert not above_limits(mix("limits={hours: 100, gpu_hours: 100}", profile="published"), estimate)
    (line,) = above_limits(mix("limits.hours=1", profile="published"), estimate)
    assert line.startswith("limits.hours: the plan takes 25.8, the limit is 1; lower search.trials")
    (line,) = above_limits(mix("limits.gpu_hours=0.5", profile="published"), estimate)
    assert line.startswith("limits.gpu_hours: ")


KEYS = [
    *("trials", "steps", "tokens", "seconds_per_step", "hours", "gpu_hours"),
    *("rungs", "disk_gb", "detectable", "sd", "sd_source"),
]


def test_the_keys_that_scripts_read() -> None:
    tree = asdict(plan(mix(), 2, RATE))
    assert list(tree)[: len(KEYS)] == KEYS
    assert tree["tokens"] == tree["trials"] * tree["steps"] * 32 * 32
    assert tree["rungs"] == []
    halving = asdict(plan(mix("scheduler=halving"), 2, RATE))
    assert halving["rungs"] == mix("scheduler=halving").rungs != []


def test_hours_of_a_measured_pace_are_start_up_steps_and_validations() -> None:
    estimate = planning.plan(mix(), 2, Pace(0.03, 4.0), measured=True, preparing=10.0)
    assert estimate.seconds_per_step == 0.03
    rounds = 4 * (1200 * 0.03 + 4.0 + planning.TRIAL_START)
    assert estimate.hours * 3600 == pytest.approx(planning.SWEEP_START + 10 + rounds)
    assert estimate.startup_s == planning.SWEEP_START + 10


def test_people_read_units_sources_and_what_would_be_refused() -> None:
    spec = mix("limits.hours=0.01")
    estimate = planning.plan(spec, 2, Pace(0.0314, 4.0), measured=True)
    text = "\n".join(shown(spec, replace(estimate, refused=planning.above_limits(spec, estimate))))
    assert "31.4 ms with 2 trials at a time, measured" in text
    assert "would be refused: limits.hours: the plan takes" in text
    assert "machine's rate" not in text
    guessed = "\n".join(shown(mix(), plan(mix(), 2, RATE)))
    assert "trials at a time, assumed" in guessed
    assert "assumed     training reaches 48% of this machine's rate" in guessed
    assert "would be refused" not in guessed
    assert "at most" not in guessed
    assert "at most" in "\n".join(shown(mix("scheduler=halving"), plan(mix("scheduler=halving"), 2, RATE)))


def test_people_read_what_is_compared_on_which_text_and_within_which_budget() -> None:
    text = "\n".join(shown(mix(), plan(mix(), 2, RATE)))
    assert "  corpus      embedded" in text
    assert "  tokenizer   train:2048" in text
    assert "  baseline    baseline (100/0/0 ema_decay=1 update_every=24)" in text
    assert "  arms        1 beside it: published" in text
    assert "masking.shares shares of random (at least 0.5), token, trigram; masking.ema_decay 0 to 1; " in text
    settings = mix().settings({})
    assert "154 predicted positions a step, 1,200 steps of the baseline: 184,800" in text
    assert settings.steps == 1200
    many = arms(arms={f"arm{number}": {"x": number / 20} for number in range(12)})
    text = "\n".join(shown(many, plan(many, 1, RATE)))
    assert "11 beside it: arm1, arm2, arm3, arm4, arm5, arm6, arm7, arm8 and 3 more" in text
    assert "1 tokens a step, 20 steps of the baseline: 20" in text
    assert "  space " not in text


def test_a_space_of_few_points_is_counted_and_planned_as_such() -> None:
    tree = {
        "name": "few",
        "trainable": "trainables.toy:train",
        "space": {"x": {"choice": [0.1, 0.3]}, "report_every": {"randint": [4, 6]}},
        "search": {"method": "tpe", "trials": 20},
    }
    spec = resolve(tree)
    estimate = plan(spec, 2, RATE)
    assert (estimate.points, estimate.trials) == (6, 6)
    text = "\n".join(shown(spec, estimate))
    assert "x one of 0.1, 0.3; report_every 4 to 6, integer; 6 points" in text
    assert "6 to search" in text
    assert "the space has only 6 points, search.trials is 20: the search ends when all have been tried" in text
    enough = resolve({**tree, "search": {"method": "tpe", "trials": 5}})
    assert "the space has only" not in "\n".join(shown(enough, plan(enough, 2, RATE)))
    assert plan(mix(), 2, RATE).points is None


@pytest.mark.parametrize("profile", ["laptop", "small"])
def test_the_end_says_what_share_of_the_published_tokens_a_trial_saw(tmp_path: Path, profile: str) -> None:
    spec, full = load(MIX, profile), load(MIX, "published")
    told = closing.lines(MIX, spec, Journal(tmp_path / "j"), Outcome(run_dir=MIX.parent, tracking_uri="x"), None)
    seen, published = (one.settings({}).steps * one.settings({}).tokens_per_step for one in (spec, full))
    line = f"profile {profile}: a trial saw {seen / 1e6:.1f} M tokens, {seen / published:.1%} of the "
    assert f"{line}{published / 1e6:.1f} M of published" in told
