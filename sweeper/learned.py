"""Whether the baseline of a comparison learned enough for it to mean anything: the trainable says so (`unlearned`)."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal import Journal, TrialRecord
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec

TAG = "sweeper.caution"


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
