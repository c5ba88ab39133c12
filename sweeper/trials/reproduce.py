"""Train a trial again from its journal, and say whether the numbers are the same."""

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
    """The original trial compared with its repetition.

    Args:
        trial: its id.
        rows: how many were compared.
        equal: whether all metrics of the original are bitwise equal in all of its rows.
        loss: the original's objective at the last step.
        again: the repetition's objective at the last step.
        largest: metric -> the largest absolute difference, for metrics that differ.
        gone: metrics that only the original has.
        new: metrics that only the repetition has.
        changed: other differences, such as versions, in words.
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
    """Spec, journal and the completed trial; the search's best if none is named. Raises ValueError in one line."""
    if not (run_dir / run_folders.SPEC).is_file():
        raise ValueError(f"--reproduce {run_dir}: not a run folder, it has no {run_folders.SPEC}")
    spec, journal = load(run_dir / run_folders.SPEC, outside=run_dir), run_folders.opened(run_dir, trust)[1]
    done = {record.id: record for record in journal.trials.values() if record.state == "completed"}
    record = done.get(identity) if identity else records.best(spec, done.values())
    if record is None:
        listed = ", ".join(done) or "none"
        raise ValueError(f"--trial {identity or ''}: no such completed trial in {run_dir}; completed: {listed}"[:390])
    return spec, journal, record


def reproduce(spec: SweepSpec, run_dir: Path, journal: Journal, record: TrialRecord, again: Again) -> Reproduction:
    """Train the trial again in a temporary folder, and compare.

    Args:
        spec: of the run.
        run_dir: the run folder; the temporary folder lies in it.
        journal: of the run.
        record: the trial.
        again: runs the open trials of a journal in a folder, as `tuner.again` does.
    """
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
    """Compare row by row. A row that only one of them has, or a missing metric, is a difference without a size."""
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
    return [what, verdict, *(f"differs: {line}" for line in found.changed)]


def _changed(old: Journal, new: Journal) -> list[str]:
    """How versions, data, machine, threads and device differ between the last sessions of two journals."""
    then, now = (_last(journal) for journal in (old, new))
    pairs: list[tuple[str, Any, Any]] = [
        (name, then.versions.get(name), now.versions.get(name)) for name in sorted(then.versions | now.versions)
    ]
    was, is_now = fingerprints_in(then.facts), fingerprints_in(now.facts)
    pairs += [(key, was[key], is_now[key]) for key in sorted(was.keys() & is_now.keys())]
    keys = sorted((then.machine.keys() & now.machine.keys()) - {"concurrency", "slots"})
    pairs += [(key, then.machine[key], now.machine[key]) for key in keys]
    pairs.append(("git commit", then.git_commit, now.git_commit))
    return [f"{name} was {before}, is {after}" for name, before, after in pairs if before != after]


def _last(journal: Journal) -> Session:
    return next(event for event in reversed(journal.events) if isinstance(event, Session))
