"""What a spec costs, and what its confirmation could detect. Runs nothing.

The caller gives the seconds a step: measured by a short probe (probe.py), or estimated here from floating-point
operations and a share of this machine's rate of matrix products. Start-up times are measured constants. If trials
differ in cost, the dearest corner of the space counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sweeper.journal import budget, records, tasks
from sweeper.plan.seed_noise import Spread
from sweeper.plan.shared_steps import fork_steps, shared_steps
from sweeper.spec import conditions
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Pace, Settings

# Measured on one thread for hidden 64 and 128, 1,024 and 2,048 tokens a step, 2,048 to 8,192 pieces: seconds are
# flops / (0.48 * rate of matrix products) plus 15 microseconds a token (dropout, softmax, copies, noise), within 10 %.
ACHIEVED = 0.48
SECONDS_PER_TOKEN = 15e-6
# What the published runs reached: 10,000 steps of 225.6 GFLOP in 3,574 to 4,043 s on an RTX A6000 (Accuracy-Morph,
# BabyLM 2026). Ours computes the decoder only where needed and should be faster; that is not measured.
PUBLISHED_GPU_FLOPS = 0.59e12

# Seconds on a two-core machine: the driver's imports and Ray 9, the trials' first imports 8, the tracker's end 5.
SWEEP_START = 22.0
# A trial without workers reuses a process; one with workers starts and ends a group (10 s with one worker).
TRIAL_START = 0.1
GROUP_START = 7.0
WORKER_START = 3.0

ASSUMED_SD = 0.02
KEPT_CHECKPOINTS = 2
TRUNK = 1.25  # checkpoints: one, and the answers so far
LISTED = 8  # arms by name


@dataclass(frozen=True)
class Look:
    """A declared look: pairs and runs so far, its level, and the smallest difference in nats that it can detect."""

    pairs: int
    runs: int
    alpha: float
    detectable: float


@dataclass(frozen=True)
class Plan:
    """Figures of one sweep: its search and the confirmation that its spec declares, together unless stated otherwise.

    Args:
        trials: of the search.
        steps: of one trial of full length.
        tokens: over all trials.
        seconds_per_step: of one trial while `concurrency` of them run.
        hours: wall clock from the command to the end, with start-up, as if no trial were stopped early.
        gpu_hours: over all trials.
        rungs: the steps at which trials may be stopped.
        disk_gb: checkpoints and bundles, in 10^9 bytes.
        detectable: the smallest difference in nats that `pairs` pairs of seeds detect with 80 % power, at Holm's first
            level for `comparisons` comparisons, at the last look if there are several; None below two pairs.
        sd: of paired differences between seeds, in nats.
        sd_source: where it is from, in words.
        concurrency: trials at a time.
        startup_s: seconds of start-up.
        reports_s: seconds of validation, of one trial.
        flops: floating-point operations.
        pairs: of seeds, in the confirmation.
        comparisons: of the confirmation.
        confirming: the most runs of the confirmation.
        measured: whether seconds_per_step was measured.
        assumed: what was not measured, in words.
        refused: why a start would be refused, one line each.
        notes: of the trainable, about what its trials share.
        warnings: of the trainable, about the same.
        points: of the space; None if they are not counted.
        looks: of the confirmation.
        warm: what other runs tell the sampler, a line for each.
        shared_steps: over all trials, those that none of them trains since others have; `hours` counts them.
    """

    trials: int
    steps: int
    tokens: int
    seconds_per_step: float
    hours: float
    gpu_hours: float
    rungs: list[int]
    disk_gb: float
    detectable: float | None
    sd: float
    sd_source: str
    concurrency: int
    startup_s: float
    reports_s: float
    flops: float
    pairs: int
    comparisons: int
    confirming: int
    measured: bool
    assumed: list[str]
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    points: int | None = None
    looks: list[Look] = field(default_factory=list)
    shared_steps: int = 0
    warm: list[str] = field(default_factory=list)


def plan(
    spec: SweepSpec,
    room: int,
    pace: Pace,
    *,
    measured: bool = False,
    preparing: float = 0.0,
    sd: Spread | None = None,
) -> Plan:
    """The plan of a spec.

    Args:
        spec: of the sweep.
        room: how many trials fit at once.
        pace: of one trial while that many run.
        measured: whether the pace was measured.
        preparing: seconds to make what the trials share.
        sd: of paired differences between seeds, if earlier runs give it.

    Raises ValueError in one line.
    """
    if room < 1 or not 0 <= pace.step < math.inf or not 0 <= pace.reports < math.inf:
        raise ValueError(f"cannot plan with room for {room} trials at {pace.step:g} s a step")
    from sweeper.confirmation.design import rule  # late: a refusal need not wait for scipy
    from sweeper.confirmation.paired_tests import detectable

    held, settings, trials = spec.resources, dearest(spec), spec.total_trials + spec.confirm_trials
    at_once = concurrency(spec, room)
    seconds = settings.steps * pace.step + pace.reports + _trial_start(held.workers)
    startup = SWEEP_START + preparing
    pairs, arms = spec.looks[-1], spec.compared + 1
    comparisons = max(1, spec.compared)
    steps = zip((0, *spec.looks), spec.looks, strict=False)
    batches = [spec.total_trials, *(arms * (n - before) for before, n in steps if spec.compared)]
    rounds = sum(math.ceil(trials / at_once) for trials in batches)
    declared = rule(spec, comparisons)
    declared_sd = Spread(spec.confirm.sd, "as the spec has it") if spec.confirm.sd else None
    noise = sd or declared_sd or Spread(ASSUMED_SD, "assumed")
    return Plan(
        shared_steps=shared_steps(spec, at_once),
        trials=spec.total_trials,
        steps=settings.steps,
        tokens=trials * settings.steps * settings.tokens_per_step,
        seconds_per_step=pace.step,
        hours=(startup + rounds * seconds) / 3600,
        gpu_hours=trials * seconds * held.processes * held.gpus_per_worker / 3600,
        rungs=spec.rungs,
        disk_gb=disk_bytes(spec) / 1e9,
        detectable=noise.sd * detectable(pairs, comparisons, alpha=declared.level(len(spec.looks)))
        if pairs > 1
        else None,
        sd=noise.sd,
        sd_source=noise.source,
        concurrency=at_once,
        startup_s=startup,
        reports_s=pace.reports,
        flops=trials * _cost(settings),
        pairs=pairs,
        comparisons=comparisons,
        confirming=spec.confirm_trials,
        measured=measured,
        assumed=_assumed(spec, measured, sd),
        points=spec.points,
        looks=[
            Look(n, arms * n, level, noise.sd * detectable(n, comparisons, alpha=level))
            for n, level in zip(spec.looks, declared.levels, strict=False)
            if spec.compared
        ],
    )


def concurrency(spec: SweepSpec, room: int) -> int:
    """How many trials run at once if `room` of them fit."""
    most = max(spec.total_trials, spec.confirm_trials)
    return min(room, most, spec.resources.concurrency or most)


def dearest(spec: SweepSpec) -> Settings:
    """The settings of the corner of the space, or the arm, that takes the most operations."""
    return max((spec.settings(params) for params in _corners(spec)), key=_cost)


def disk_bytes(spec: SweepSpec) -> float:
    """Bytes that the trials leave on disk: checkpoints and bundles, and meanwhile the states that others start from."""
    seeds = {*spec.seeds.search, *(spec.seeds.confirm if spec.compared else ())}
    trunks = len(fork_steps(spec)) * len(seeds) * TRUNK
    trials = (spec.total_trials + spec.confirm_trials) * (KEPT_CHECKPOINTS + 1 / 3)
    return (trials + trunks) * dearest(spec).checkpoint_bytes


def estimated(spec: SweepSpec, cpu_flops: float) -> Pace:
    """The pace, estimated without a probe. Raises ValueError in one line.

    cpu_flops: operations a second of one CPU in float32 matrix products while all are busy.
    """
    if not 0 < cpu_flops < math.inf:
        raise ValueError(f"cannot plan with {cpu_flops:g} operations a second")
    held, settings = spec.resources, dearest(spec)
    rate = held.processes * _process_rate(spec, cpu_flops)
    step = settings.flops_per_step / rate
    if not held.gpus_per_worker:
        step += SECONDS_PER_TOKEN * settings.tokens_per_step / held.processes
    return Pace(step, settings.validation_flops / rate)


def above_limits(spec: SweepSpec, estimate: Plan) -> list[str]:
    """One line for each of the spec's limits that the plan exceeds."""
    lines = []
    for name, planned in (("hours", estimate.hours), ("gpu_hours", estimate.gpu_hours)):
        limit = getattr(spec.limits, name)
        if limit is not None and planned > limit:
            lines.append(
                f"limits.{name}: the plan takes {planned:.3g}, the limit is {limit:g}; "
                "lower search.trials or config.steps, or raise the limit"
            )
    return lines


def _sharing(spec: SweepSpec, estimate: Plan) -> dict[str, str]:
    """What trials share, if any."""
    every = estimate.steps * (spec.total_trials + spec.confirm_trials)
    if not estimate.shared_steps:
        return {}
    trained = every - estimate.shared_steps
    return {"trained": f"{trained:,} of {every:,} steps, {trained / every:.0%}: trials start where others were"}


def shown(spec: SweepSpec, estimate: Plan) -> list[str]:
    """The plan for people: aligned, with units and assumptions."""
    from sweeper.confirmation.design import rule
    from sweeper.confirmation.paired_tests import PAIRS

    settings, source = dearest(spec), "measured" if estimate.measured else "assumed"
    at_once, pairs, others = estimate.concurrency, estimate.pairs, estimate.comparisons
    at_most = "" if spec.scheduler == "none" and not estimate.looks else "at most "
    rows = {
        **_asked(spec),
        **({"warm start": "; ".join(estimate.warm)} if estimate.warm else {}),
        "trials": f"{estimate.trials} to search, {_confirming(spec)}; {at_once} at a time",
        "budget": _budget(spec),
        "steps": f"{estimate.steps:,} a trial of {settings.tokens_per_step:,} tokens: {_count(estimate.tokens)} in all",
        **_sharing(spec, estimate),
        "rungs": ", ".join(f"{step:,}" for step in estimate.rungs) or "none",
        "a step": f"{_duration(estimate.seconds_per_step)} with {at_once} trials at a time, {source}",
        "validation": f"{_duration(estimate.reports_s)} a trial, {source}",
        "start-up": f"{_duration(estimate.startup_s)}: Ray, imports, tracking store, the corpus if not prepared yet",
        "in all": f"{at_most}{_duration(3600 * estimate.hours)}",
        "GPU-hours": f"{at_most}{estimate.gpu_hours:.3g}" if estimate.gpu_hours else "none",
        "disk": f"{estimate.disk_gb:.2g} GB",
    }
    if spec.evaluate:
        rows["tasks"] = f"{tasks.words(spec)}: their time is not in the estimate"
    if estimate.detectable is not None:
        rows["detectable"] = (
            f"{estimate.detectable:.2g} nats, by {pairs} pairs of seeds in {others} comparison{'s'[others == 1 :]}, "
            f"at an sd of {estimate.sd:.3g} nats ({estimate.sd_source})"
        )
    for number, look in enumerate(estimate.looks, 1):
        rows[f"look {number}"] = (
            f"{look.pairs} pairs, at most {look.runs} runs so far, at a level of {look.alpha:.2g}: shows "
            f"{look.detectable:.2g} nats"
        )
    if estimate.confirming:
        at_last = "at the last look, " * bool(estimate.looks)
        rows["verdict"] = at_last + "; ".join(rule(spec, others).words(others, len(spec.looks)))
    lines = [f"{spec.name}: the plan", *(f"  {name:<10}  {text}" for name, text in rows.items())]
    lines += (f"  {name:<10}  {text}" for name, text in budget.planned(spec))
    lines += (f"  data        {note}" for note in estimate.notes)
    lines += (f"  caution     {warning}" for warning in estimate.warnings)
    lines += (f"  assumed     {note}" for note in estimate.assumed)
    if few := few_points(spec):
        lines.append(f"  note        {few}")
    if estimate.confirming and 0 < pairs < PAIRS:
        lines.append(f"  caution     exploration only: a verdict takes {PAIRS} pairs of seeds, there are {pairs}")
    if estimate.confirming and (estimate.detectable or 0) > spec.confirm.worthwhile:
        lines.append(
            f"  caution     {pairs} pairs of seeds cannot detect confirm.worthwhile, {spec.confirm.worthwhile:g} nats: "
            "add seeds, or raise it"
        )
    return [*lines, *(f"would be refused: {line}" for line in estimate.refused)]


def few_points(spec: SweepSpec) -> str | None:
    """One line if the space has fewer points than the search has trials; otherwise None."""
    if spec.points is None or spec.points >= (spec.search.trials or 0):
        return None
    points = f"{spec.points} point{'s'[spec.points == 1 :]}"
    return (
        f"the space has only {points}, search.trials is {spec.search.trials}: the search ends when all have been tried"
    )


def _asked(spec: SweepSpec) -> dict[str, str]:
    """Rows of the plan: what is compared, and on which text."""
    rows = {key: str(spec.data[key]) for key in ("corpus", "tokenizer") if key in spec.data}
    if spec.arms:
        baseline, *others = spec.arms
        rows["baseline"] = f"{baseline} ({records.params(spec.arms[baseline])})"
        listed = ", ".join(others[:LISTED]) + (f" and {len(others) - LISTED} more" if len(others) > LISTED else "")
        rows["arms"] = f"{len(others)} beside it{': ' if others else ''}{listed}"
    else:
        rows["baseline"] = "none: no arm is named"
    if spec.search.method != "arms":
        points = "" if spec.points is None else f"; {spec.points:,} points"
        given = spec.conditions
        rows["space"] = (
            "; ".join(
                f"{path} {domain.words()}" + (f", {conditions.words(given[path])}" if path in given else "")
                for path, domain in spec.space.items()
            )
            + points
        )
    return rows


def _budget(spec: SweepSpec) -> str:
    """What a run of the baseline predicts, or what it reads if the trainable does not tell."""
    settings = spec.settings(spec.baseline_params)
    predicted: int | None = getattr(settings, "predicted_per_step", None)
    each, what = (settings.tokens_per_step, "tokens") if predicted is None else (predicted, "predicted positions")
    whose = "the baseline" if spec.arms else "a trial"
    return f"{each:,} {what} a step, {settings.steps:,} steps of {whose}: {_count(each * settings.steps)}"


def _confirming(spec: SweepSpec) -> str:
    if not spec.confirm_trials:
        return "none to confirm"
    best = f"the best {spec.compared}" if spec.search.method != "arms" else f"{spec.compared} arms"
    first, last = spec.looks[0], spec.looks[-1]
    if first == last:
        return f"{spec.confirm_trials} to confirm ({best} and the baseline on {last} fresh seeds)"
    fewest = (spec.compared + 1) * first
    seeds = f"{first} to {last} fresh seeds, until all is decided"
    return f"{fewest} to {spec.confirm_trials} to confirm ({best} and the baseline on {seeds})"


def _count(number: float) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"


def _corners(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    yield {}
    yield from spec.arms.values()
    yield from (params for _, params in conditions.corners(spec.space, spec.conditions))


def _cost(settings: Any) -> float:
    return settings.steps * settings.flops_per_step + settings.validation_flops


def _process_rate(spec: SweepSpec, cpu_flops: float) -> float:
    """Operations a second of one training process. A share of a GPU is proportionally slower."""
    held = spec.resources
    if held.gpus_per_worker:
        return PUBLISHED_GPU_FLOPS * min(1.0, held.gpus_per_worker)
    return ACHIEVED * cpu_flops * held.cpus_per_worker


def _trial_start(workers: int) -> float:
    return GROUP_START + WORKER_START * workers if workers else TRIAL_START


def _assumed(spec: SweepSpec, measured: bool, sd: Spread | None) -> list[str]:
    notes = []
    if spec.resources.gpus_per_worker and not measured:
        rate = PUBLISHED_GPU_FLOPS / 1e12
        notes.append(f"a GPU reaches {rate:.2f} TFLOP/s, as the published runs did on an RTX A6000")
    elif not measured:
        notes.append(f"training reaches {ACHIEVED:.0%} of this machine's rate of matrix products")
    if sd is None and spec.confirm.sd is None:
        notes.append(f"paired differences between seeds have an sd of {ASSUMED_SD} nats")
    return notes
