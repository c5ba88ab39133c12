"""What a spec costs, and what its confirmation could detect. Runs nothing.

An estimate from floating-point operations: a trial's steps and validations at a share of the rate at which this
machine multiplies matrices, plus start-up. Where trials differ in cost, the dearest corner of the space counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sweeper.spec import SweepSpec

# Measured on one thread for hidden 64 and 128, 1,024 and 2,048 tokens a step, 2,048 to 8,192 pieces: seconds are
# flops / (0.48 * rate of matrix products) plus 15 microseconds a token (dropout, softmax, copies, noise), within 10 %.
ACHIEVED = 0.48
SECONDS_PER_TOKEN = 15e-6
# What the published runs reached: 10,000 steps of 225.6 GFLOP in 3,574 to 4,043 s on an RTX A6000 (Accuracy-Morph,
# BabyLM 2026). Ours computes the decoder where it is needed only and should be faster; that is not measured.
PUBLISHED_GPU_FLOPS = 0.59e12

# Seconds on an idle two-core machine: Ray with its dashboard 6, a new tracking store 7, the trials' first imports 5.
SWEEP_START = 18.0
# A trial in process reuses its process; one with workers starts a group of them anew (17 s with one, 20 s with two).
TRIAL_START = 0.1
GROUP_START = 14.0
WORKER_START = 3.0

PROBE_SECONDS = 0.3

ASSUMED_SD = 0.02
POWER = 0.8
ALPHA = 0.05
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Plan:
    """Figures of one sweep's search stage, and of the confirmation that its spec declares.

    steps, tokens, flops: over all trials, validations included in flops alone. seconds_per_step: of one trial while
    `concurrency` of them run. hours: wall clock from the command to the end. detectable: the smallest difference in
    nats that `pairs` pairs of seeds show with 80 % power, at Holm's first level for `comparisons` of them; None below
    two pairs. assumed: what was not measured, in words.
    """

    trials: int
    concurrency: int
    steps: int
    tokens: int
    flops: float
    seconds_per_step: float
    hours: float
    gpu_hours: float
    disk_gb: float
    pairs: int
    comparisons: int
    detectable: float | None
    sd: float
    sd_source: str
    assumed: tuple[str, ...]


def plan(spec: SweepSpec, room: int, cpu_flops: float, sd: float | None = None) -> Plan:
    """The plan of a spec where `room` trials fit at once.

    cpu_flops: operations a second of one CPU in float32 matrix products while all are busy, as `measure_flops(n) / n`.
    sd: of the paired differences between seeds, in nats, where earlier runs tell it. Raises ValueError in one line.
    """
    if room < 1 or not 0 < cpu_flops < math.inf:
        raise ValueError(f"nothing can be planned with room for {room} trials at {cpu_flops:g} operations a second")
    held = spec.resources
    settings = max((spec.settings(params) for params in _corners(spec)), key=_cost)
    steps, trials = settings.steps, spec.total_trials
    concurrency = min(room, trials, held.concurrency or trials)
    rate = held.processes * _process_rate(spec, cpu_flops)
    step = settings.flops_per_step / rate
    if not held.gpus_per_worker:
        step += SECONDS_PER_TOKEN * settings.tokens_per_step / held.processes
    seconds = steps * step + settings.validation_flops / rate + _trial_start(held.workers)
    hours = (SWEEP_START + math.ceil(trials / concurrency) * seconds) / 3600
    pairs = len(spec.seeds.confirm)
    comparisons = max(1, len(spec.arms) - 1) if spec.search.method == "arms" else 1
    used_sd = ASSUMED_SD if sd is None else sd
    return Plan(
        trials=trials,
        concurrency=concurrency,
        steps=trials * steps,
        tokens=trials * steps * settings.tokens_per_step,
        flops=trials * _cost(settings),
        seconds_per_step=step,
        hours=hours,
        gpu_hours=trials * seconds * held.processes * held.gpus_per_worker / 3600,
        disk_gb=trials * settings.checkpoint_bytes * (KEPT_CHECKPOINTS + 1 / 3) / 1e9,
        pairs=pairs,
        comparisons=comparisons,
        detectable=used_sd * detectable(pairs, comparisons) if pairs > 1 else None,
        sd=used_sd,
        sd_source="assumed" if sd is None else "earlier runs",
        assumed=_assumed(spec, sd),
    )


def refuse_above_limits(spec: SweepSpec, estimate: Plan) -> None:
    """Raises ValueError, in one line, where the plan lies above the spec's limits."""
    for name, planned in (("hours", estimate.hours), ("gpu_hours", estimate.gpu_hours)):
        limit = getattr(spec.limits, name)
        if limit is not None and planned > limit:
            raise ValueError(
                f"limits.{name}: the plan takes {planned:.3g}, the limit is {limit:g}; "
                "fewer search.trials or config.steps would fit, or a higher limit"
            )


def measure_flops(threads: int) -> float:
    """Operations a second of this machine's float32 matrix products on some threads: the best of several 1024-cubes."""
    # Imported here: a bad spec is refused before anything heavy loads.
    import numpy as np
    from threadpoolctl import threadpool_limits

    size = 1024
    left = np.full((size, size), 0.5, np.float32)
    taken: list[float] = []
    with threadpool_limits(limits=threads, user_api="blas"):
        while len(taken) < 3 or sum(taken) < PROBE_SECONDS:
            begin = time.perf_counter()
            _ = left @ left
            taken.append(time.perf_counter() - begin)
    return 2 * size**3 / min(taken)


def detectable(pairs: int, comparisons: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest mean of paired differences, in their sd, that a two-sided t test at alpha / comparisons shows.

    By the noncentral t distribution: 1.16, 1.45, 1.74, 1.93 for 8 pairs and 1, 3, 8, 15 comparisons.
    """
    from scipy import optimize, stats

    assert pairs > 1, pairs
    assert comparisons > 0, comparisons
    freedom = pairs - 1
    critical = stats.t.isf(alpha / comparisons / 2, freedom)

    def shortfall(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(pairs))) - power

    highest = 1.0
    while shortfall(highest) < 0:
        highest *= 2
    return float(optimize.root_scalar(shortfall, bracket=(0.0, highest), xtol=1e-6).root)


def _corners(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    yield {}
    yield from spec.arms.values()
    yield from ({path: corner} for path, domain in spec.space.items() for corner in domain.corners())


def _cost(settings: Any) -> float:
    return settings.steps * settings.flops_per_step + settings.validation_flops


def _process_rate(spec: SweepSpec, cpu_flops: float) -> float:
    """Operations a second that one training process reaches. A share of a GPU is slower in proportion."""
    held = spec.resources
    if held.gpus_per_worker:
        return PUBLISHED_GPU_FLOPS * min(1.0, held.gpus_per_worker)
    return ACHIEVED * cpu_flops * held.cpus_per_worker


def _trial_start(workers: int) -> float:
    return GROUP_START + WORKER_START * workers if workers else TRIAL_START


def _assumed(spec: SweepSpec, sd: float | None) -> tuple[str, ...]:
    notes = []
    if spec.resources.gpus_per_worker:
        rate = PUBLISHED_GPU_FLOPS / 1e12
        notes.append(f"a GPU reaches {rate:.2f} TFLOP/s, as the published runs did on an RTX A6000")
    if sd is None:
        notes.append(f"paired differences between seeds have an sd of {ASSUMED_SD} nats")
    return tuple(notes)
