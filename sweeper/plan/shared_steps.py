"""How many steps of a sweep need not be trained, since trials start where others were: its runs, played in steps."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sweeper.spec.load import probes
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Trainable

MOST_TRUNKS = 8  # of a seed: each has a model, its optimiser and the answers so far


class _Run(NamedTuple):
    """A planned trial. keys: step -> what its first so many steps depend on."""

    steps: int
    keys: Mapping[int, str]


def fork_steps(spec: SweepSpec) -> list[int]:
    """The steps after which trials leave their state: where arms and corners of the space end what they share.

    The first of them alone where they are many.
    """
    if not spec.reuse.trunk or spec.resources.gpus_per_worker:
        return []
    if Trainable.load(spec.trainable).past is None:
        return []
    ends = {spec.settings(params).warmup_steps for _, params in probes(spec, spec.arms)} - {0, spec.steps}
    return sorted(ends) if len(ends) <= MOST_TRUNKS else [min(ends)]


def shared_steps(spec: SweepSpec, at_once: int) -> int:
    """Steps that the sweep will not train, about, if so many trials run at once and none is stopped early.

    Points that a sampler will choose count as sharing what every corner of the space shares with the baseline.
    """
    trainable, ends = Trainable.load(spec.trainable), fork_steps(spec)
    if trainable.past is None or not ends:
        return 0
    arms = {name: _run(spec, trainable, ends, params) for name, params in spec.arms.items()}
    corners = [_run(spec, trainable, ends, params) for where, params in probes(spec, spec.arms) if where[0] == "space"]
    common = set.intersection(*(set(one.keys.items()) for one in corners)) if corners else set[tuple[int, str]]()
    point = _Run(spec.steps, dict(common))
    searched = list(arms.values())[: spec.total_trials]
    if spec.search.method == "arms":
        search = [(run, seed) for seed in spec.seeds.search for run in arms.values()]
    else:
        search = [(run, spec.seeds.search[0]) for run in [*searched, *[point] * (spec.total_trials - len(searched))]]
    others = [arms[name] for name in spec.comparable[1:]] if spec.search.method == "arms" else [point] * spec.compared
    seeds = spec.seeds.confirm[: spec.looks[-1]] if spec.compared else ()
    confirm = [(arms[str(spec.baseline)], seed) for seed in seeds]
    confirm += [(run, seed) for seed in seeds for run in others[: spec.compared]]
    saved = [_played(search, at_once), _played(confirm, at_once)]
    first = next((stage for stage in saved if stage), [])
    verified = sum(first) / len(first) if spec.reuse.verify and len(first) > at_once else 0.0
    return round(sum(map(sum, saved)) - verified)


def _run(spec: SweepSpec, trainable: Trainable, ends: Iterable[int], params: Mapping[str, Any]) -> _Run:
    settings, keys = spec.settings(params), {}
    for step in ends:
        past = trainable.past(settings, step) if trainable.past else None
        if past is not None:
            keys[step] = json.dumps(past, sort_keys=True, default=str)
    return _Run(settings.steps, keys)


def _played(runs: Iterable[tuple[_Run, int]], at_once: int) -> list[int]:
    """By run, the step at which it starts, if one step takes as long as another."""
    free, left, starts = [0.0] * at_once, dict[tuple[str, int, int], float](), list[int]()
    for run, seed in runs:
        now = heapq.heappop(free)
        there = [step for step, key in run.keys.items() if left.get((key, seed, step), float("inf")) <= now]
        start = max(there, default=0)
        for step, key in run.keys.items():
            if step > start:
                left.setdefault((key, seed, step), now + step - start)
        heapq.heappush(free, now + run.steps - start)
        starts.append(start)
    return starts
