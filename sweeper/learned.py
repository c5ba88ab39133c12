"""Whether runs learned enough for a comparison to mean anything: the trainable says so (`stuck`, `unlearned`)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal import Journal, TrialRecord
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec

TAG, STUCK = "sweeper.caution", "sweeper.stuck"


def stuck(spec: SweepSpec, record: TrialRecord) -> str | None:
    """What the trainable says of a run of the full length that did not begin to learn; None of all others."""
    of = Trainable.load(spec.trainable).stuck
    return of(record.rows[-1].metrics) if of and record.state == "completed" and record.rows else None


def known(spec: SweepSpec, record: TrialRecord) -> bool | None:
    """Whether a completed run was stuck; None where nothing tells."""
    tells = Trainable.load(spec.trainable).stuck and record.state == "completed" and record.rows
    return stuck(spec, record) is not None if tells else None


def by_arm(spec: SweepSpec, records: Iterable[TrialRecord]) -> dict[str, dict[int, str]] | None:
    """Arm -> seed -> what is said of a stuck run; None where the trainable does not tell of any."""
    if Trainable.load(spec.trainable).stuck is None:
        return None
    found: dict[str, dict[int, str]] = {}
    for record in records:
        if words := stuck(spec, record):
            found.setdefault(str(record.ask.arm), {})[record.ask.seed] = words
    return found


def told(spec: SweepSpec, records: Iterable[TrialRecord]) -> str | None:
    """What the trainable says of the means of the baseline's last rows; None where all is well or nothing is known."""
    own = next(iter(spec.arms), None)
    runs = [record for record in records if record.ask.arm == own and record.state == "completed" and record.rows]
    if own is None or not runs:
        return None
    ends = [record.rows[-1].metrics for record in runs]
    common = [key for key in ends[0] if all(key in end for end in ends)]
    return Trainable.load(spec.trainable).unlearned({key: fmean(end[key] for end in ends) for key in common})


def caution(spec: SweepSpec, journal: Journal) -> str | None:
    """The sentence beside the verdict, as it is on record; without a verdict the search is the comparison."""
    said = journal.verdict()
    if said is None:
        return told(spec, journal.stage("search"))
    return said["unlearned"] if "unlearned" in said else told(spec, journal.stage("confirm"))
