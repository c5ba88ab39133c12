"""How far seeds make two configurations differ: the sd that a confirmation must overcome, from existing runs.

The unit is the difference of two configurations on the same seed, as in a confirmation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, islice

SEEDS = 3  # with fewer, an sd says nothing
CONFIGURATIONS = 100

Losses = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Spread:
    """An sd of paired differences in nats, and its source in words."""

    sd: float
    source: str


def spread(losses: Losses) -> Spread | None:
    """The sd of paired differences in these losses (configuration -> seed -> nats), or None.

    Pooled over all pairs of configurations with at least three common seeds. Without such a pair: sqrt 2 times the sd
    between the seeds of a configuration, which is the sd of differences if pairing by seed does not help.
    """
    runs = dict(islice(((name, by) for name, by in losses.items() if len(by) >= SEEDS), CONFIGURATIONS))
    pairs = {(a, b): runs[a].keys() & runs[b].keys() for a, b in combinations(runs, 2)}
    differences = {pair: [runs[pair[0]][seed] - runs[pair[1]][seed] for seed in pairs[pair]] for pair in pairs}
    # All zeros are one run under two names: a setting without effect.
    differences = {pair: found for pair, found in differences.items() if len(found) >= SEEDS and any(found)}
    if differences:
        compared = {name for pair in differences for name in pair}
        seeds = {seed for pair in differences for seed in pairs[pair]}
        source = f"earlier runs, paired: {len(compared)} configurations, {len(seeds)} seeds"
        return _pooled(list(differences.values()), 1.0, source)
    most = max(map(len, runs.values()), default=0)
    source = f"earlier runs, unpaired: √2 times the sd between {most} seeds of a configuration"
    return _pooled([list(by.values()) for by in runs.values()], math.sqrt(2), source)


def _pooled(groups: list[list[float]], factor: float, source: str) -> Spread | None:
    """The sd, pooled by degrees of freedom. None if nothing varies: that measures no noise."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    return Spread(factor * math.sqrt(squares / freedom), source) if squares > 0 else None
