"""What the tracking store knows of earlier runs that matter for a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sweeper.spec.spec import SweepSpec
from sweeper.tracking import shared_settings, store
from sweeper.tracking import tags as tag
from sweeper.tracking.trial_runs import name

MOST = 5000
ALL = 10**6  # a history with gaps would call a used seed fresh


def losses(uri: str, spec: SweepSpec) -> dict[str, dict[int, float]]:
    """Configuration -> seed -> objective at the end of completed runs; of several the newest.

    They share the spec's trainable and all settings that its space and arms do not set, and the data of the newest run.
    Raises ValueError, in one line, if the store cannot be reached.
    """
    tags = {tag.KIND: "trial", tag.STATE: "completed", tag.TRAINABLE: spec.trainable}
    compared = shared_settings.varied(spec)
    wanted, _ = _split(shared_settings.of_all(spec, {}), compared)
    found: dict[str, dict[int, float]] = {}
    data: str | None = None
    trials = store.found(uri, tags, MOST)
    sweeps = store.found(uri, {tag.KIND: "sweep", tag.TRAINABLE: spec.trainable}, ALL) if trials else []
    common = {run.info.run_id: shared_settings.from_tags(run.data.tags) for run in sweeps}
    for run in trials:
        params = shared_settings.whole(run.data.params, common.get(run.data.tags.get(tag.PARENT, ""), {}))
        fixed, configuration = _split(params, compared)
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


def _split(params: Mapping[str, str], compared: set[str]) -> tuple[dict[str, str], str]:
    """The settings that a comparison keeps fixed, and the others as text, which names a configuration."""
    own = {key: text for key, text in params.items() if key not in ("arm", "seed")}
    free = {key: own.pop(key) for key in sorted(own) if shared_settings.below(key, compared)}
    return own, json.dumps(free)
