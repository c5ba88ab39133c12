"""What a confirmation asks of the tracking store: used seeds, earlier verdicts, the standing champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.confirmation import conclusion, design
from sweeper.confirmation.fresh_seeds import spent
from sweeper.journal import budget, checkpoints, learned
from sweeper.journal.events import Family
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import history, store, tracker
from sweeper.tracking import tags as tag

Say = Callable[[str], None]


def declare(spec: SweepSpec, journal: Journal, uri: str, facts: Mapping[str, Any], run_dir: Path, say: Say) -> Family:
    """The first look's family. The standing champion is one of its arms, if it can be compared."""
    baseline = spec.config_hash(spec.trainable_config(spec.baseline_params))
    fresh, before, standing, own = False, 0, None, store.identity(journal, run_dir)
    try:
        fresh = not spent(uri, facts, own) & {*spec.seeds.confirm}
        before = history.confirmations(uri, baseline, own)
        standing = _standing(spec, uri, facts, say)
    except ValueError as error:
        say(f"{error}; the confirmation continues without the earlier runs")
    return design.declared(spec, journal, fresh=fresh, earlier=before, champion=standing)


def further(
    spec: SweepSpec, journal: Journal, number: int, uri: str, facts: Mapping[str, Any], run_dir: Path, say: Say
) -> Family:
    """One more look, on seeds that no run in the store has used."""
    try:
        return design.further(spec, journal, number, spent(uri, facts, store.identity(journal, run_dir)))
    except ValueError as error:
        say(f"{error}; the added seeds are marked as not fresh")
        return replace(design.further(spec, journal, number, set()), fresh=False)


def _standing(spec: SweepSpec, uri: str, facts: Mapping[str, Any], say: Say) -> dict[str, Any] | None:
    """The settings of the standing champion; None if there is none, or none that can be compared."""
    tags = store.champion(uri, spec.name)
    if tags is None:
        return None
    if not comparable(spec, facts, tags):
        say(f"the champion of {spec.name} had other data or another budget: it is not compared and stays champion")
        return None
    try:
        params = json.loads(tags[tag.PARAMS])
        stray = budget.stray(spec, params)
    except (KeyError, ValueError) as error:
        say(f"the standing champion of {spec.name} cannot be trained again: {error}")
        return None
    if stray:
        say(f"the champion of {spec.name} is off budget: it is not compared and stays champion")
        return None
    return params


def comparable(spec: SweepSpec, facts: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Whether a model version's tags name the same data and budget."""
    data = str(facts.get("data_fingerprint", ""))
    return tags.get(tag.BUDGET) == spec.budget_hash and tags.get(tag.DATA, "") == data


@dataclass(frozen=True)
class Crowned:
    """The arm that a confirmation makes champion of its sweep, whatever another run has registered since.

    Args:
        arm: its label; None if there is none.
        run: its run on the first declared seed that completed; None if there is none.
        why_not: why an arm that is confirmed does not become champion, if so.
        notes: what a reader of its estimate must know.
    """

    arm: str | None = None
    run: TrialRecord | None = None
    why_not: str | None = None
    notes: Sequence[str] = ()


def crowned(spec: SweepSpec, journal: Journal) -> Crowned:
    """The champion by the last look, or why there is none."""
    verdict = journal.verdict()
    label: str | None = verdict["champion"] if verdict else None
    if verdict is None or label is None:
        return Crowned()
    if learned.caution(spec, journal):
        why = f"{label} is confirmed, but the runs learned too little to mean anything: no champion is registered"
        return Crowned(why_not=why)
    if spec.confirm.until and not design.finished(spec, journal):
        return Crowned(why_not=f"{label} is confirmed, but looks are still to come: no champion is registered yet")
    if challenge := verdict.get("challenge"):
        if challenge["crowned"] is None:
            return Crowned(why_not=challenge["said"])
        label = str(challenge["crowned"])
    confirmed = sum(one["verdict"] == "confirmed" for one in verdict["comparisons"])
    notes = [] if verdict["fresh"] else [conclusion.NOT_FRESH]
    notes += [conclusion.optimistic(confirmed)] if confirmed > 1 else []
    return Crowned(label, _first(journal, label, journal.families()[0].seeds), notes=notes)


def promotion(
    spec: SweepSpec, journal: Journal, uri: str, facts: Mapping[str, Any], run_dir: Path, say: Say
) -> tracker.Promotion | None:
    """The run to register as champion: the best that the last look confirmed, on its first declared seed.

    None, and nothing moves, if nothing is confirmed, if the runs learned too little for that to mean anything, if the
    standing champion is the best of them or none is confirmed against it, and if it cannot be compared or was not:
    another sweep may have registered it since.
    """
    verdict, families, found = journal.verdict(), journal.families(), crowned(spec, journal)
    if found.why_not:
        say(found.why_not)
        return None
    label, record = found.arm, found.run
    if verdict is None or label is None:
        standing = store.champion(uri, spec.name) if len(families) > 1 else None
        if standing is not None and history.is_own(store.identity(journal, run_dir), standing):
            say(f"the champion of {spec.name} is from an earlier look of this run; this look does not confirm it")
        return None
    if label == families[-1].champion:
        say(f"the champion of {spec.name} is still the best and stays")
        return None
    standing = store.champion(uri, spec.name)
    if standing is not None and not comparable(spec, facts, standing):
        say(f"{label} is confirmed, but the champion of {spec.name} had other data or budget: rename the sweep")
        return None
    if standing is not None and not _met(spec, journal, standing, run_dir):
        say(f"{label} is confirmed, but was not compared with the champion of {spec.name}: a new sweep can do so")
        return None
    bundle = checkpoints.bundle(run_dir, record.end.checkpoint) if record and record.end else None
    if record is None or bundle is None:
        return None
    return tracker.Promotion(record, bundle, _tags(spec, facts, verdict, record, run_dir))


def _met(spec: SweepSpec, journal: Journal, standing: Mapping[str, str], run_dir: Path) -> bool:
    """Whether the standing champion is from this run, or was one of the arms that its confirmation compared."""
    family = journal.families()[-1]
    if history.is_own(store.identity(journal, run_dir), standing):
        return True
    try:
        its_hash = spec.config_hash(spec.trainable_config(json.loads(standing[tag.PARAMS])))
    except (KeyError, ValueError):
        return False
    return any(spec.config_hash(spec.trainable_config(params)) == its_hash for params in family.arms.values())


def _first(journal: Journal, label: str, seeds: list[int]) -> TrialRecord | None:
    runs = [one for one in journal.stage(design.STAGE) if one.ask.arm == label and one.state == "completed"]
    return min((one for one in runs if one.ask.seed in seeds), key=lambda one: seeds.index(one.ask.seed), default=None)


def _tags(
    spec: SweepSpec, facts: Mapping[str, Any], verdict: Mapping[str, Any], record: TrialRecord, run_dir: Path
) -> dict[str, str]:
    """The verdict, for people and for the sweep that challenges it."""
    found = next(one for one in verdict["comparisons"] if one["arm"] == record.ask.arm)
    return {
        tag.VERDICT: str(verdict["told"][record.ask.arm]),
        tag.DIFFERENCE: repr(found["mean"]),
        tag.INTERVAL: json.dumps(found["interval"]),
        tag.PAIRS: str(found["n"]),
        tag.METRIC: str(verdict["metric"]),
        tag.BASELINE: str(verdict["baseline"]),
        tag.FRESH: str(verdict["fresh"]).lower(),
        tag.REPORT: str(run_dir / "report.html"),
        tag.PARAMS: json.dumps(record.ask.params),
        tag.BUDGET: spec.budget_hash,
        tag.DATA: str(facts.get("data_fingerprint", "")),
    }
