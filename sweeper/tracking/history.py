"""What the tracking store knows of earlier runs that matter for a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeper.spec import conditions
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import store
from sweeper.tracking import tags as tag
from sweeper.tracking.trial_runs import name, settings

MOST = 5000
ALL = 10**6  # a history with gaps would call a used seed fresh


def losses(uri: str, spec: SweepSpec) -> dict[str, dict[int, float]]:
    """Configuration -> seed -> objective at the end of completed runs; of several the newest.

    They share the spec's trainable and all settings that its space and arms do not set, and the data of the newest run.
    Raises ValueError, in one line, if the store cannot be reached.
    """
    tags = {tag.KIND: "trial", tag.STATE: "completed", tag.TRAINABLE: spec.trainable}
    compared = _compared(spec)
    wanted, _ = _split(_settings(spec, {}), compared)
    found: dict[str, dict[int, float]] = {}
    data: str | None = None
    for run in store.found(uri, tags, MOST):
        fixed, configuration = _split(run.data.params, compared)
        loss, fingerprint = run.data.metrics.get(name(spec.objective)), run.data.tags.get(tag.DATA, "")
        if wanted.items() <= fixed.items() and loss is not None and data in (None, fingerprint):
            data = fingerprint
            found.setdefault(configuration, {}).setdefault(int(run.data.params["seed"]), loss)
    return found


def used_seeds(uri: str, data: str, own: Mapping[str, str]) -> set[int]:
    """Seeds of all runs on this data, except the sweep's that `own` tags name. Raises ValueError as `losses`."""
    runs = store.found(uri, {tag.KIND: "trial", tag.DATA: data}, ALL)
    # A driver that was killed may have left a run without parameters.
    return {
        int(one.data.params["seed"]) for one in runs if "seed" in one.data.params and not is_own(own, one.data.tags)
    }


def confirmations(uri: str, baseline: str, own: Mapping[str, str]) -> int:
    """How many other sweeps confirmed against the baseline with this hash. Raises ValueError as `losses`."""
    runs = store.found(uri, {tag.KIND: "sweep", tag.BASELINE: baseline}, ALL)
    return sum(not is_own(own, one.data.tags) for one in runs)


def is_own(own: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether the tags are those of the sweep that `own` tags name."""
    return bool(own) and own.items() <= tags.items()


def _compared(spec: SweepSpec) -> set[str]:
    """The settings that the space and the arms set, and those that follow from them, for instance from a preset."""
    changes: list[Mapping[str, Any]] = [params for _, params in conditions.corners(spec.space, spec.conditions)]
    changes += spec.arms.values()
    found, base = {name(path) for params in changes for path in params}, _settings(spec, {})
    for params in changes:
        found |= {path for path, _ in base.items() ^ _settings(spec, params).items()}
    return found


def _settings(spec: SweepSpec, params: Mapping[str, Any]) -> dict[str, str]:
    return {name(path): text for path, text in settings(spec.trainable_config(params)).items()}


def _split(params: Mapping[str, str], compared: set[str]) -> tuple[dict[str, str], str]:
    """The settings that a comparison keeps fixed, and the others as text, which names a configuration."""
    own = {key: text for key, text in params.items() if key not in ("arm", "seed")}
    free = {key: own.pop(key) for key in sorted(own) if any(f"{key}.".startswith(f"{path}.") for path in compared)}
    return own, json.dumps(free)
