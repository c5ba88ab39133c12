"""Method grid: make every combination of a space's values an arm. The result is method arms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.spec import conditions
from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import shown

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

_LONGEST = 64


def expanded(spec: SweepSpec, settle: Callable[[Mapping[str, Any]], object]) -> SweepSpec:
    """The spec under method arms: its own arms first, then each point of the grid that is not one of them.

    settle: turns settings by path into complete settings, None if they are illegal. Raises ConfigError.
    """
    if not spec.space:
        raise ConfigError(("space",), "is empty: grid needs one; for arms alone write search: {method: arms}")
    arms, given = dict(spec.arms), [settle(arm) for arm in spec.arms.values()]
    for number, point in enumerate(conditions.every(spec.space, spec.conditions), 1):
        if given and (settled := settle(point)) is not None and settled in given:
            continue
        name = _name(point)
        if name in arms or len(name) > _LONGEST:
            name = f"{name[: _LONGEST - 6]}-{number}"
        arms[name] = point
    count = len(arms) * len(spec.seeds.search)
    if spec.search.trials not in (None, count):
        counts = f"{len(arms)} arms times {len(spec.seeds.search)} search seeds is {count}"
        raise ConfigError(("search", "trials"), f"{spec.search.trials}, but {counts}; leave it out")
    search = spec.search.model_copy(update={"method": "arms", "trials": None})
    return spec.model_copy(update={"arms": arms, "search": search})


def _name(point: Mapping[str, Any]) -> str:
    """`ema_decay_0_5-rate_0_15`: the last words of the paths with their values, in characters that a name may have."""
    leaves = [path.rpartition(".")[2] for path in point]
    words = leaves if len(set(leaves)) == len(leaves) else list(point)
    texts = [value if isinstance(value, str) else shown(value) for value in point.values()]
    text = "-".join(f"{word}_{value}" for word, value in zip(words, texts, strict=True))
    return re.sub(r"[^A-Za-z0-9-]+", "_", text.replace("_-", "_minus")).strip("_-") or "point"
