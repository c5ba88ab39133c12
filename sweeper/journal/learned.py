"""Whether runs learned enough for a comparison to mean anything: the trainable says so (`stuck`, `unlearned`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal.journal import Journal, TrialRecord
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec


def stuck(spec: SweepSpec, record: TrialRecord) -> str | None:
    """What the trainable says of a run of the full length that did not begin to learn; None of all others."""
    if record.state != "completed" or not record.rows:
        return None
    if spec.stub is not None:
        return record.end.stuck if record.end else None
    return _stuck(spec, record)


def _stuck(spec: SweepSpec, record: TrialRecord) -> str | None:
    of = Trainable.load(spec.trainable).stuck
    return of(record.rows[-1].metrics) if of else None


def tells(spec: SweepSpec) -> bool:
    """Whether anything tells which runs were stuck."""
    return bool(Trainable.load(spec.trainable).stuck if spec.stub is None else spec.stub.stuck)


def was_stuck(spec: SweepSpec, record: TrialRecord) -> bool | None:
    """Whether a completed run was stuck; None where nothing tells."""
    told = tells(spec) and record.state == "completed" and record.rows
    return stuck(spec, record) is not None if told else None


def by_arm(spec: SweepSpec, records: Iterable[TrialRecord]) -> dict[str, dict[int, str]] | None:
    """Arm -> seed -> what is said of a stuck run; None where the trainable does not tell of any."""
    if not tells(spec):
        return None
    found: dict[str, dict[int, str]] = {}
    for record in records:
        if words := stuck(spec, record):
            found.setdefault(str(record.ask.arm), {})[record.ask.seed] = words
    return found


def unlearned(spec: SweepSpec, records: Iterable[TrialRecord]) -> str | None:
    """What the trainable says of the means of the baseline's last rows; None where all is well or nothing is known."""
    runs = [record for record in records if record.state == "completed" and _baselines(spec, record)]
    if spec.stub is not None:
        ends = [record.end for record in runs if record.end]
        return max(ends, key=lambda end: end.time).unlearned if ends else None
    return _unlearned(spec, runs)


def ended(spec: SweepSpec, record: TrialRecord, stage: Iterable[TrialRecord]) -> dict[str, str | None]:
    """What the End of a run that completes keeps of what the trainable says of it. stage: all runs of its stage.

    A function of the trainable that fails stops no sweep: it fails again where the reports ask it.
    """
    found: dict[str, str | None] = {}
    if not record.rows:
        return found
    with contextlib.suppress(Exception):
        found["stuck"] = _stuck(spec, record)
    if _baselines(spec, record):
        before = [one for one in stage if one.state == "completed" and _baselines(spec, one) and one is not record]
        with contextlib.suppress(Exception):
            found["unlearned"] = _unlearned(spec, [*before, record])
    return found


def _baselines(spec: SweepSpec, record: TrialRecord) -> bool:
    """Whether it is a run of the baseline that has reported."""
    return bool(spec.arms and record.rows) and record.ask.arm == spec.baseline


def _unlearned(spec: SweepSpec, runs: Sequence[TrialRecord]) -> str | None:
    if not runs:
        return None
    ends = [record.rows[-1].metrics for record in runs]
    common = [key for key in ends[0] if all(key in end for end in ends)]
    return Trainable.load(spec.trainable).unlearned({key: fmean(end[key] for end in ends) for key in common})


def caution(spec: SweepSpec, journal: Journal) -> str | None:
    """The sentence beside the verdict, as it is on record; without a verdict the search is the comparison."""
    verdict = journal.verdict()
    if verdict is None:
        return unlearned(spec, journal.stage("search"))
    return verdict["unlearned"] if "unlearned" in verdict else unlearned(spec, journal.stage("confirm"))
