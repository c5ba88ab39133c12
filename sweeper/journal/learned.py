"""Whether runs learned enough for a comparison to mean anything, by the trainable's `stuck` and `unlearned`."""

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
    """The trainable's words on a run of the full length that did not begin to learn; None for all others."""
    if record.state != "completed" or not record.rows:
        return None
    if spec.stub is not None:
        return record.end.stuck if record.end else None
    return _stuck(spec, record)


def _stuck(spec: SweepSpec, record: TrialRecord) -> str | None:
    judge = Trainable.load(spec.trainable).stuck
    return judge(record.rows[-1].metrics) if judge else None


def tells(spec: SweepSpec) -> bool:
    """Whether the trainable, or the record of one, says which runs were stuck."""
    return bool(Trainable.load(spec.trainable).stuck if spec.stub is None else spec.stub.stuck)


def was_stuck(spec: SweepSpec, record: TrialRecord) -> bool | None:
    """Whether a completed run was stuck; None if unknown."""
    judged = tells(spec) and record.state == "completed" and record.rows
    return stuck(spec, record) is not None if judged else None


def by_arm(spec: SweepSpec, records: Iterable[TrialRecord]) -> dict[str, dict[int, str]] | None:
    """Arm -> seed -> the words on a stuck run; None if the trainable does not judge that."""
    if not tells(spec):
        return None
    found: dict[str, dict[int, str]] = {}
    for record in records:
        if words := stuck(spec, record):
            found.setdefault(str(record.ask.arm), {})[record.ask.seed] = words
    return found


def unlearned(spec: SweepSpec, records: Iterable[TrialRecord]) -> str | None:
    """The trainable's words on the means of the baseline's last rows; None if all is well or nothing is known."""
    runs = [record for record in records if record.state == "completed" and _baselines(spec, record)]
    if spec.stub is not None:
        ends = [record.end for record in runs if record.end]
        return max(ends, key=lambda end: end.time).unlearned if ends else None
    return _unlearned(spec, runs)


def ended(spec: SweepSpec, record: TrialRecord, stage: Iterable[TrialRecord]) -> dict[str, str | None]:
    """The trainable's words for the End of a run that completes. stage: all runs of its stage.

    A function of the trainable that fails does not stop the sweep: it fails again when the reports ask it.
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
    """Whether this is a run of the baseline that has reported."""
    return bool(spec.arms and record.rows) and record.ask.arm == spec.baseline


def _unlearned(spec: SweepSpec, runs: Sequence[TrialRecord]) -> str | None:
    if not runs:
        return None
    ends = [record.rows[-1].metrics for record in runs]
    common = [key for key in ends[0] if all(key in end for end in ends)]
    return Trainable.load(spec.trainable).unlearned({key: fmean(end[key] for end in ends) for key in common})


def caution(spec: SweepSpec, journal: Journal) -> str | None:
    """The sentence beside the verdict, from the record; without a verdict, on the search."""
    verdict = journal.verdict()
    if verdict is None:
        return unlearned(spec, journal.stage("search"))
    return verdict["unlearned"] if "unlearned" in verdict else unlearned(spec, journal.stage("confirm"))
