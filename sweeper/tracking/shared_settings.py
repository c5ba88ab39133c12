"""Which settings are parameters of a trial's run, and which stand once, with the sweep.

A trial's parameters are its arm, its seed, every setting that the spec varies, and what else it has of its own. The
others are the same for all trials: the sweep's run has them in a tag, and `spec.yaml` among its files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sweeper.spec import conditions
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import tags as tag
from sweeper.tracking.trial_runs import MAX_TAG, name, settings

LACKING = "(not set)"  # a setting that the sweep's other trials have, and this one has not
_MOST = 50  # tags; settings with more text are not compared with later ones


def varied(spec: SweepSpec) -> set[str]:
    """The settings that the space and the arms set, and those that follow from them, for instance from a preset."""
    changes: list[Mapping[str, Any]] = [params for _, params in conditions.corners(spec.space, spec.conditions)]
    changes += spec.arms.values()
    found, base = {name(path) for params in changes for path in params}, of_all(spec, {})
    for params in changes:
        found |= {path for path, _ in base.items() ^ of_all(spec, params).items()}
    return found


def of_all(spec: SweepSpec, params: Mapping[str, Any]) -> dict[str, str]:
    """All settings of a configuration, as MLflow's parameters."""
    return {name(path): text for path, text in settings(spec.trainable_config(params)).items()}


def below(path: str, paths: set[str]) -> bool:
    """Whether a setting is one of these, or part of one."""
    return any(f"{path}.".startswith(f"{one}.") for one in paths)


def shared(spec: SweepSpec) -> dict[str, str]:
    """The settings that no arm and no point of the space changes."""
    changed = varied(spec)
    return {path: text for path, text in of_all(spec, {}).items() if path not in changed}


def columns(spec: SweepSpec, common: Mapping[str, str]) -> list[str]:
    """The parameters that differ between trials: those that the spec sets, then those that follow from them."""
    direct = {name(path) for params in (spec.space, *spec.arms.values()) for path in params}
    free = {path for params in ({}, spec.baseline_params) for path in of_all(spec, params)} - common.keys()
    return sorted(free, key=lambda path: (not below(path, direct), path))


def own(params: Mapping[str, str], common: Mapping[str, str]) -> dict[str, str]:
    """Of a trial's parameters those that the sweep's shared settings do not tell."""
    named = {name(path): text for path, text in params.items()}
    return {path: text for path, text in named.items() if common.get(path) != text} | dict.fromkeys(
        common.keys() - named.keys(), LACKING
    )


def whole(params: Mapping[str, str], common: Mapping[str, str]) -> dict[str, str]:
    """A trial's parameters with those of its sweep: the inverse of `own`."""
    return {path: text for path, text in {**common, **params}.items() if text != LACKING}


def to_tags(common: Mapping[str, str]) -> dict[str, str]:
    """Shared settings as tags of the sweep's run, in as many as their text needs."""
    text = json.dumps(common, separators=(",", ":"))
    parts = [text[start : start + MAX_TAG] for start in range(0, len(text), MAX_TAG)][:_MOST]
    return {_key(number): part for number, part in enumerate(parts)}


def from_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The settings in a sweep's tags; none if an earlier version wrote them, or somebody else."""
    parts = []
    while (part := tags.get(_key(len(parts)))) is not None:
        parts.append(part)
    try:
        found = json.loads("".join(parts))
    except ValueError:
        return {}
    return {str(path): str(text) for path, text in found.items()} if isinstance(found, dict) else {}


def _key(number: int) -> str:
    return f"{tag.SETTINGS}.{number}" if number else tag.SETTINGS
