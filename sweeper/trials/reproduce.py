"""Run a trial again from its journal, and say whether the same numbers came out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeper.journal import records, run_folders
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.spec.load import load
from sweeper.spec.spec import SweepSpec
from sweeper.system import files

FOLDER = "reproduced"

Again = Callable[[SweepSpec, Path, Journal], None]


@dataclass(frozen=True)
class Reproduction:
    """The original beside its repetition.

    rows: how many were compared. equal: whether all metrics that the original has, in all of its rows, are the same
    bits. largest: metric -> the largest absolute difference, of those that differ. gone, new: metrics that the one has
    and the other lacks, as another version's reports may. loss, again: the objective at the last step. changed: what is
    not as it was, such as versions, in words.
    """

    trial: str
    rows: int
    equal: bool
    loss: float | None
    again: float | None
    largest: dict[str, float] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def chosen(run_dir: Path, identity: str | None, trust: bool = False) -> tuple[SweepSpec, Journal, TrialRecord]:
    """Spec, journal and the completed trial, the best of the search if none is named. ValueError in one line."""
    if not (run_dir / run_folders.SPEC).is_file():
        raise ValueError(f"--reproduce {run_dir}: there is no run, for it has no {run_folders.SPEC}")
    spec, journal = load(run_dir / run_folders.SPEC, outside=run_dir), run_folders.opened(run_dir, trust)[1]
    done = {record.id: record for record in journal.trials.values() if record.state == "completed"}
    record = done.get(identity) if identity else records.best(spec, done.values())
    if record is None:
        known = ", ".join(done) or "none"
        raise ValueError(f"--trial {identity or ''}: no such completed trial in {run_dir}; there are: {known}"[:390])
    return spec, journal, record


def reproduce(spec: SweepSpec, run_dir: Path, journal: Journal, record: TrialRecord, again: Again) -> Reproduction:
    """Train the trial once more, in a folder of its own which then goes, through what `again` runs open trials with."""
    folder = files.inside(run_dir, FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        repeated = Journal(folder / "journal.jsonl")
        repeated.append(record.ask)
        again(spec, folder, repeated)
        repeated.close()
        return compared(spec, record, repeated.trials[record.id], _changed(journal, repeated))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compared(spec: SweepSpec, old: TrialRecord, new: TrialRecord, changed: list[str]) -> Reproduction:
    """Row by row. A row that only one of them has, and a metric that is gone, count as a difference without a size."""
    largest: dict[str, float] = {}
    ours, theirs = ({row.step: row.metrics for row in one.rows} for one in (old, new))
    both = ours.keys() & theirs.keys()
    for step in both:
        for key in ours[step].keys() & theirs[step].keys():
            difference = abs(ours[step][key] - theirs[step][key])
            if difference:
                largest[key] = max(difference, largest.get(key, 0.0))
    gone = sorted({key for step in both for key in ours[step].keys() - theirs[step].keys()})
    added = sorted({key for step in both for key in theirs[step].keys() - ours[step].keys()})
    found = Reproduction(
        trial=old.id,
        rows=len(both),
        equal=bool(both) and ours.keys() == theirs.keys() and not gone and not largest,
        loss=old.score(spec.objective),
        again=new.score(spec.objective),
        largest=largest,
        gone=gone,
        new=added,
        changed=changed,
    )
    failed = new.end.reason if new.end and new.state != "completed" else None
    return replace(found, changed=[*changed, f"it {new.state}: {failed}"]) if failed else found


def lines(spec: SweepSpec, found: Reproduction) -> list[str]:
    """For people."""
    then, now = (f"{value!r}" if value is not None else "none" for value in (found.loss, found.again))
    what = f"{found.trial}: {spec.objective} {then} then, {now} now"
    if found.equal:
        verdict = f"bitwise equal: every metric of {found.rows} rows"
    else:
        differ = [f"{key} by up to {size:.3g}" for key, size in sorted(found.largest.items())]
        differ += [f"{key} is gone" for key in found.gone]
        verdict = f"not equal: {', '.join(differ[:6]) or 'other rows'}"
    if found.new:
        verdict += f"; new since then: {', '.join(found.new[:3])}{', …' if len(found.new) > 3 else ''}"
    return [what, verdict, *(f"not as it was: {line}" for line in found.changed)]


def _changed(old: Journal, new: Journal) -> list[str]:
    """Versions, data, machine, threads and device that are not as they were in the last session."""
    then, now = (_last(journal) for journal in (old, new))
    pairs: list[tuple[str, Any, Any]] = [
        (name, then.versions.get(name), now.versions.get(name)) for name in sorted(then.versions | now.versions)
    ]
    was, is_now = fingerprints_in(then.facts), fingerprints_in(now.facts)
    pairs += [(key, was[key], is_now[key]) for key in sorted(was.keys() & is_now.keys())]
    keys = sorted((then.machine.keys() & now.machine.keys()) - {"concurrency", "slots"})
    pairs += [(key, then.machine[key], now.machine[key]) for key in keys]
    pairs.append(("git commit", then.git_commit, now.git_commit))
    return [f"{name} {before} then, {after} now" for name, before, after in pairs if before != after]


def _last(journal: Journal) -> Session:
    return next(event for event in reversed(journal.events) if isinstance(event, Session))
