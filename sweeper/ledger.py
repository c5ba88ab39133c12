"""What a confirmation must know of the tracking store: spent seeds, earlier verdicts, the standing champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweeper import confirm, earlier, tracking
from sweeper.journal import Family, Journal, TrialRecord
from sweeper.spec import SweepSpec

Say = Callable[[str], None]
PARAMS, BUDGET = "sweeper.params", "sweeper.budget"


def refuse_used(spec: SweepSpec, uri: str, facts: Mapping[str, Any], run: str | None) -> None:
    """Raises ValueError in one line where runs of this data have used a seed of the confirmation."""
    used = spent(uri, facts, run) & {*spec.seeds.confirm} if spec.compared else set()
    if used:
        listed = ", ".join(map(str, sorted(used)))
        raise ValueError(
            f"seeds.confirm: runs of this data in the tracking store have used {listed}, so they confirm nothing: "
            f"choose others (--set seeds.confirm=[...]), or give --reuse-seeds and have the verdict marked as not fresh"
        )


def spent(uri: str, facts: Mapping[str, Any], run: str | None) -> set[int]:
    """Seeds that other runs of this data have used; none where the trainable names no data."""
    data = facts.get("data_fingerprint")
    return earlier.used_seeds(uri, str(data), run) if data else set()


def declare(spec: SweepSpec, journal: Journal, uri: str, facts: Mapping[str, Any], run_dir: Path, say: Say) -> Family:
    """The first look's family, the standing champion among its arms where it can be compared."""
    baseline = spec.config_hash(spec.trainable_config(next(iter(spec.arms.values()))))
    fresh, before, standing = True, 0, None
    try:
        fresh = not spent(uri, facts, run_dir.name) & {*spec.seeds.confirm}
        before = earlier.confirmations(uri, baseline, run_dir.name)
        standing = _standing(spec, uri, facts, say)
    except ValueError as error:
        say(f"{error}; the confirmation goes on without what earlier runs tell")
    return confirm.declared(spec, journal, fresh=fresh, earlier=before, champion=standing)


def _standing(spec: SweepSpec, uri: str, facts: Mapping[str, Any], say: Say) -> dict[str, Any] | None:
    """The settings of the standing champion, None where there is none that can be compared."""
    tags = tracking.champion(uri, spec.name)
    if tags is None:
        return None
    if not comparable(spec, facts, tags):
        say(f"the standing champion of {spec.name} had other data or another budget: it is not compared, and stays")
        return None
    try:
        params = json.loads(tags[PARAMS])
        spec.trainable_config(params)
    except (KeyError, ValueError) as error:
        say(f"the standing champion of {spec.name} cannot be trained again: {error}")
        return None
    return params


def comparable(spec: SweepSpec, facts: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Whether a model version's tags tell of the same data and budget."""
    data = str(facts.get("data_fingerprint", ""))
    return tags.get(BUDGET) == spec.budget_hash and tags.get(earlier.DATA, "") == data


def crowned(
    spec: SweepSpec, journal: Journal, uri: str, facts: Mapping[str, Any], run_dir: Path, say: Say
) -> tracking.Crowned | None:
    """The run to be registered as champion: of what the last look confirmed, on its first declared seed.

    None, and nothing moves, where nothing is confirmed, where the standing champion is the best of them, and where
    that one cannot be compared.
    """
    said, families = journal.verdict(), journal.families()
    label: str | None = said["champion"] if said else None
    if said is None or label is None:
        return None
    if label == families[-1].champion:
        say(f"the standing champion of {spec.name} is the best again and stays")
        return None
    standing = tracking.champion(uri, spec.name)
    if standing is not None and not comparable(spec, facts, standing):
        say(f"{label} is confirmed; the champion of {spec.name}, of other data or budget, stays: rename the sweep")
        return None
    record = _first(journal, label, families[0].seeds)
    bundle = run_dir / (record.end.checkpoint or "") / "bundle" if record and record.end else None
    if record is None or bundle is None or not bundle.is_dir():
        return None
    return tracking.Crowned(record, bundle, _tags(spec, facts, said, record, run_dir))


def _first(journal: Journal, label: str, seeds: list[int]) -> TrialRecord | None:
    runs = [one for one in journal.stage(confirm.STAGE) if one.ask.arm == label and one.state == "completed"]
    return min((one for one in runs if one.ask.seed in seeds), key=lambda one: seeds.index(one.ask.seed), default=None)


def _tags(
    spec: SweepSpec, facts: Mapping[str, Any], said: Mapping[str, Any], record: TrialRecord, run_dir: Path
) -> dict[str, str]:
    """The verdict, for people and for the sweep that challenges it."""
    found = next(one for one in said["comparisons"] if one["arm"] == record.ask.arm)
    return {
        "sweeper.verdict": str(said["told"][record.ask.arm]),
        "sweeper.difference": repr(found["mean"]),
        "sweeper.interval": json.dumps(found["interval"]),
        "sweeper.pairs": str(found["n"]),
        "sweeper.metric": str(said["metric"]),
        "sweeper.baseline": str(said["baseline"]),
        "sweeper.fresh": str(said["fresh"]).lower(),
        "sweeper.report": str(run_dir / "report.html"),
        PARAMS: json.dumps(record.ask.params),
        BUDGET: spec.budget_hash,
        earlier.DATA: str(facts.get("data_fingerprint", "")),
    }
